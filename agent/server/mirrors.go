package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	asked := map[fabric.HostID]bool{}
	for _, m := range v.mirrors() {
		asked[m.Status.Host] = m.Status.Host != ""
		for _, p := range m.Status.Ports {
			asked[v.snap.Locations[p].Host] = v.snap.Locations[p].Host != ""
		}
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(countersAtOnce)
	for host, ask := range asked {
		if !ask {
			continue
		}
		group.Go(func() error {
			counts, err := s.mirrorsOf(ctx, v.snap.Hosts[host])
			if err != nil {
				s.o.Logger.DebugContext(ctx, "a host's mirrors are not counted", "host", host, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			v.copied = append(v.copied, counts...)
			return nil
		})
	}
	_ = group.Wait() // the functions return nothing
}

// mirrorsOf asks a host for its mirrors.
func (s *Server) mirrorsOf(ctx context.Context, h *fabric.Host) ([]api.MirrorCount, error) {
	switch {
	case h == nil:
		return nil, fabric.ErrNotFound
	case fabric.HostID(h.Metadata.Name) == s.o.Self && s.o.Mirrors != nil:
		return s.o.Mirrors.MirrorCounts(ctx)
	case s.o.PeerTLS == nil:
		return nil, absent("call other hosts")
	}
	resp, err := s.callPeer(ctx, h, api.MirrorsHere().Path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list api.List[api.MirrorCount]
	return list.Items, json.NewDecoder(io.LimitReader(resp.Body, api.MaxBody)).Decode(&list)
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
