package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// mirrors tells of mirrors that copy nothing, copy more often than once, or whose sink is not a quiet place (Hyper-V's Best Practices
// Analyzer has the first two as rules 77 and 78). That a mirror's time is over is no finding: it was meant to end.
func (l *linter) mirrors() {
	at := map[fabric.PortID][]string{} // the mirrors that copy at a port
	for _, name := range slices.Sorted(maps.Keys(l.snapshot.Mirrors)) {
		m := l.snapshot.Mirrors[name]
		l.sink(m)
		n := 0
		for _, id := range slices.Sorted(maps.Keys(l.snapshot.Ports)) {
			if m.Copies(l.snapshot.Ports[id]) {
				at[id] = append(at[id], name)
				n++
			}
		}
		if n == 0 {
			l.mirror(m, "mirror-source", Warning, "its sources select no port: it copies nothing", "create the port, change the sources, or delete the mirror")
			continue
		}
		if n > 1 && cmp.Or(m.Spec.Direction, fabric.MirrorBoth) == fabric.MirrorBoth && l.within(m) {
			l.mirror(m, "mirror-twice", Note, "what its ports send to one another is copied twice: as sent and as received", "give it direction out, or in, if once is enough")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(at)) {
		if n := len(at[id]); n > fabric.MaxPortMirrors {
			l.add(Finding{ID: "mirror-crowd", Severity: Warning, Object: "port/" + string(id),
				Message: fmt.Sprintf("%d mirrors copy here, %d at most do in one direction: those that come last by name copy nothing (%s)", n, fabric.MaxPortMirrors, strings.Join(at[id][fabric.MaxPortMirrors:], ", ")),
				Next:    "delete mirrors that are not needed, or let one copy for several uses"})
		}
	}
}

// sink tells of a mirror whose sink is gone, or has something to lose.
func (l *linter) sink(m *fabric.Mirror) {
	s := m.Spec.Sink
	host := s.Host
	if s.File != nil {
		host = s.File.Host
	}
	if host != "" && l.snapshot.Hosts != nil && l.snapshot.Hosts[host] == nil {
		l.mirror(m, "mirror-sink", Warning, fmt.Sprintf("there is no host %s for its sink: it copies nothing", host), "name another host, or delete the mirror")
	}
	if s.Port == "" {
		return
	}
	port := l.snapshot.Ports[s.Port]
	switch {
	case port == nil:
		l.mirror(m, "mirror-sink", Warning, fmt.Sprintf("its sink, port %s, does not exist: it copies nothing", s.Port), "name another port, or delete the mirror")
	case slices.ContainsFunc(m.Spec.Sources, func(src fabric.MirrorSource) bool { return src.Port == s.Port }):
		l.mirror(m, "mirror-loop", Warning, fmt.Sprintf("port %s is its source and its sink: nothing of it is copied", s.Port), "name another sink")
	case l.snapshot.Settings(port).Rate[1].Max != 0:
		l.mirror(m, "mirror-rate", Note, fmt.Sprintf("port %s, its sink, has a rate for what it receives: copies are not held to it", s.Port), "limit the mirror by a filter, by sample or by truncate")
	}
}

// within reports whether two ports that the mirror copies are on one switch, and can send to each other.
func (l *linter) within(m *fabric.Mirror) bool {
	seen := map[fabric.SwitchID]bool{}
	for _, p := range l.snapshot.Ports {
		if !m.Copies(p) {
			continue
		}
		if seen[p.Spec.Switch] {
			return true
		}
		seen[p.Spec.Switch] = true
	}
	return false
}

func (l *linter) mirror(m *fabric.Mirror, id string, severity Severity, message, next string) {
	l.add(Finding{ID: id, Severity: severity, Object: "mirror/" + m.Metadata.Name, Message: message, Next: next})
}
