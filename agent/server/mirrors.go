package server

import (
	"fmt"
	"maps"
	"slices"
	"time"

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
