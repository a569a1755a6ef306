package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// mirrors are all mirrors, with the ports that each copies and where its sink is.
func (v *view) mirrors() []fabric.Mirror {
	out := sorted(v.snap.Mirrors)
	now := time.Now()
	for i := range out {
		m := &out[i]
		m.Status = fabric.MirrorStatus{Host: v.snap.SinkHost(m), Ended: m.Ended(now)}
		for _, id := range slices.Sorted(maps.Keys(v.snap.Ports)) {
			if m.Copies(v.snap.Ports[id]) {
				m.Status.Ports = append(m.Status.Ports, id)
			}
		}
		addCounts(&m.Status, m.Metadata.Name, v.copied)
		m.Status.Reason = v.idle(m)
	}
	return out
}

// idle says why a mirror copies nothing, and what to do; empty when it does.
func (v *view) idle(m *fabric.Mirror) string {
	sink := m.Spec.Sink
	switch {
	case m.Status.Ended:
		return fmt.Sprintf("its time of %s is over since %s: give it another with 'weft set mirror %s --for 10m'", m.Spec.For, m.Spec.Until.Format(time.RFC3339), m.Metadata.Name)
	case sink.Port != "" && v.snap.Ports[sink.Port] == nil:
		return fmt.Sprintf("its sink, port %s, is gone: name another, or delete the mirror", sink.Port)
	case sink.Port != "" && m.Status.Host == "":
		return fmt.Sprintf("its sink, port %s, is held by no host: start its VM", sink.Port)
	case v.snap.Hosts[m.Status.Host] == nil:
		return fmt.Sprintf("there is no host %s for its sink: name another, or delete the mirror", m.Status.Host)
	case len(m.Status.Ports) == 0:
		return "its sources select no port: see 'weft get ports'"
	}
	return ""
}

// MirrorMeter counts what mirrors copy on this host.
type MirrorMeter interface {
	MirrorCounts(ctx context.Context) ([]api.MirrorCount, error)
}

// mirrorsHere answers with what mirrors have copied here.
func (s *Server) mirrorsHere(ctx context.Context, _ *struct{}) (*answer[api.List[api.MirrorCount]], error) {
	if s.o.Mirrors == nil {
		return nil, absent("count what mirrors copy")
	}
	counts, err := s.o.Mirrors.MirrorCounts(ctx)
	return &answer[api.List[api.MirrorCount]]{api.List[api.MirrorCount]{Items: counts}}, err
}

// countMirrors asks the hosts that hold a port of a mirror, or its sink, what they have copied; one that does not answer is left out.
func (s *Server) countMirrors(ctx context.Context, v *view) {
	asked := map[fabric.HostID]*fabric.Host{}
	for _, m := range v.mirrors() {
		asked[m.Status.Host] = v.snap.Hosts[m.Status.Host]
		for _, p := range m.Status.Ports {
			asked[v.snap.Locations[p].Host] = v.snap.Hosts[v.snap.Locations[p].Host]
		}
	}
	delete(asked, "")
	q := question[api.MirrorCount]{path: api.MirrorsHere().Path}
	if s.o.Mirrors != nil {
		q.here = s.o.Mirrors.MirrorCounts
	}
	answers, _ := askAll(ctx, s, asked, q)
	for _, counts := range answers {
		v.copied = append(v.copied, counts...)
	}
}

// addCounts puts what the hosts have counted into a mirror's status.
func addCounts(st *fabric.MirrorStatus, name string, counts []api.MirrorCount) {
	for _, c := range counts {
		if c.Name != name {
			continue
		}
		st.Seen += c.Seen
		st.Copied += c.Copied
		st.Given += c.Given
		st.GivenBytes += c.GivenBytes
		st.Lost += c.Lost
		if c.Device != "" {
			st.Device = c.Device
		}
		if c.File != "" {
			st.File, st.FileBytes, st.Full = c.File, c.FileBytes, c.Full
		}
	}
}
