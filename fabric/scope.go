package fabric

import (
	"fmt"
	"slices"
)

// maxScope bounds the hosts that a switch names.
const maxScope = 1024

// Covers reports whether the switch exists on the host.
func (s *Switch) Covers(id HostID) bool {
	return s.Spec.Hosts == nil || slices.Contains(s.Spec.Hosts, id)
}

// checkScope checks the list of hosts by itself, and that no uplink lies outside.
func (s *Switch) checkScope(f *Findings) {
	switch n := len(s.Spec.Hosts); {
	case s.Spec.Hosts == nil:
		return
	case n == 0:
		f.add("spec.hosts", "names no host: leave it out for a switch on all of them")
	case n > maxScope:
		f.add("spec.hosts", "%d hosts, the most is %d: leave it out for a switch on all of them", n, maxScope)
		return
	}
	for i, id := range s.Spec.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		checkRef(f, path, string(id), true)
		if slices.Contains(s.Spec.Hosts[:i], id) {
			f.add(path, "%s is given twice: remove one", id)
		}
	}
	for i := range s.Spec.Uplinks {
		if id := s.Spec.Uplinks[i].Host; id != "" && !s.Covers(id) {
			f.add(fmt.Sprintf("spec.uplinks[%d].host", i), "%s is not among spec.hosts: add it there, or take the uplink away", id)
		}
	}
}
