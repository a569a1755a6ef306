package plan

import (
	"maps"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Changes are the steps from have to want, in order; none when have is as wanted. Three rules hold over all steps:
//
//   - What the kernel has decided by itself stays: a staged port that the guest's first frame has opened is not closed again, and a
//     port that stands in for another of its VM is not taken from its place.
//   - An entry is never replaced by one of an older epoch.
//   - After each step every port is at most as open as it was before, or as it is wanted: what closes comes first.
func Changes(want, have datapath.State) []datapath.Change {
	ports := settled(want.Ports, have.Ports)
	want.FDB = stoodIn(want, have)
	first := closing(ports, have.Ports)
	first.Put.FDB, first.Delete.FDB = leaving(ports, want.FDB, have)
	first.Delete.Segments = quitting(ports, want, have)
	first.Delete.Sinks = misled(ports, want, have)
	if len(first.Put.Ports)+len(first.Put.FDB) > 0 {
		first.Put.Peers = lacking(want.Peers, have.Peers, differs)
		first.Put.Switches = lacking(want.Switches, have.Switches, differs)
		first.Put.Tables = lacking(want.Tables, have.Tables, never)
		first.Put.Mirrors = lacking(want.Mirrors, have.Mirrors, differs)
	}
	closed := after(have, first)

	second := datapath.Change{Put: datapath.State{
		Peers:     lacking(want.Peers, closed.Peers, differs),
		Switches:  lacking(want.Switches, closed.Switches, differs),
		Tables:    lacking(want.Tables, closed.Tables, never),
		Mirrors:   lacking(want.Mirrors, closed.Mirrors, differs),
		Sinks:     lacking(want.Sinks, closed.Sinks, differs),
		Ports:     lacking(ports, closed.Ports, differs),
		Segments:  lacking(placed(ports, want), closed.Segments, differs),
		FDB:       lacking(want.FDB, closed.FDB, newer),
		Neighbors: lacking(want.Neighbors, have.Neighbors, differs),
		Flood:     lacking(want.Flood, have.Flood, differs),
		Uplinks:   lacking(want.Uplinks, have.Uplinks, differs),
		Wires:     lacking(want.Wires, have.Wires, differs),
	}}
	if want.Local != have.Local {
		second.Put.Local = want.Local
	}
	last := datapath.Change{Delete: datapath.State{
		Peers:     surplus(want.Peers, have.Peers),
		Switches:  surplus(want.Switches, have.Switches),
		Tables:    unnamed(surplus(want.Tables, have.Tables), ports),
		FDB:       surplus(want.FDB, closed.FDB),
		Neighbors: surplus(want.Neighbors, have.Neighbors),
		Flood:     surplus(want.Flood, have.Flood),
		Uplinks:   surplus(want.Uplinks, have.Uplinks),
		Wires:     surplus(want.Wires, have.Wires),
		Mirrors:   surplus(want.Mirrors, have.Mirrors),
		Sinks:     surplus(want.Sinks, closed.Sinks),
	}}

	var steps []datapath.Change
	for _, step := range []datapath.Change{first, second, last} {
		if !empty(step) {
			steps = append(steps, step)
		}
	}
	return steps
}

// stoodIn is what is wanted of the stations, given that a port of a VM may have taken the place of another of its ports, whose MAC it
// sends with: the kernel knows which of them did last.
func stoodIn(want, have datapath.State) map[datapath.FDBKey]datapath.FDB {
	stations := want.FDB
	var on map[string][]fabric.VNI
	for device, p := range want.Ports {
		if have.Ports[device].Name != p.Name {
			continue
		}
		for _, s := range p.MACs.Listed {
			if !s.Sibling {
				continue
			}
			if on == nil {
				on = segmentsOf(want)
			}
			for _, vni := range append([]fabric.VNI{p.VNI, p.Receives}, on[device]...) {
				key := datapath.FDBKey{VNI: vni, MAC: s.MAC}
				next, wanted := want.FDB[key]
				if now := have.FDB[key]; !wanted || next.Device == "" || now.Device != device {
					continue
				}
				next.Device = device
				stations = with(stations, map[datapath.FDBKey]datapath.FDB{key: next}, nil)
			}
		}
	}
	return stations
}

// segmentsOf are the segments that ports are on beside their own, by device.
func segmentsOf(s datapath.State) map[string][]fabric.VNI {
	on := map[string][]fabric.VNI{}
	for key := range s.Segments {
		on[key.Device] = append(on[key.Device], key.VNI)
	}
	return on
}

// settled is what is wanted of the ports, given what the kernel has decided by itself.
func settled(want, have map[string]datapath.Port) map[string]datapath.Port {
	ports := make(map[string]datapath.Port, len(want))
	for device, next := range want {
		if now, there := have[device]; there && now.Name == next.Name {
			next = settle(next, now)
		}
		ports[device] = next
	}
	return ports
}

// settle is what is wanted of one port, given what the kernel has. What comes from an older snapshot than the kernel's entry
// changes nothing, with two exceptions that only close: a port that nobody holds any more (epoch 0), and one that was staged
// by a grant that is gone.
func settle(next, now datapath.Port) datapath.Port {
	switch {
	case next.Epoch == 0:
	case older(next, now):
		if now.Gate != datapath.Staged || next.Gate != datapath.Closed {
			return now
		}
	case next.Epoch == now.Epoch && next.Gate == datapath.Staged && now.Gate == datapath.Open:
		next.Gate = datapath.Open
	}
	return next
}

// older reports whether next is of an older snapshot than now. Settings only get newer, so an epoch that went down under
// newer settings is that of a port that was deleted and made again.
func older(next, now datapath.Port) bool {
	if next.Epoch == now.Epoch {
		return next.Generation < now.Generation
	}
	return next.Epoch < now.Epoch && next.Generation <= now.Generation
}

// closing takes away the devices that carry no port any more, and closes those that are to pass less than now or to carry
// another port, so that a port which changes its device is never open on both.
func closing(ports, have map[string]datapath.Port) datapath.Change {
	c := datapath.Change{Delete: datapath.State{Ports: surplus(ports, have)}}
	for device, now := range have {
		next, stays := ports[device]
		switch {
		case !stays:
		case next.Name != now.Name && now.Gate != datapath.Closed:
			next.Gate = datapath.Closed
			set(&c.Put.Ports, device, next)
		case next.Gate.Openness() < now.Gate.Openness():
			set(&c.Put.Ports, device, next)
		case next.Epoch < now.Epoch && next.Gate != datapath.Closed:
			next.Gate = datapath.Closed // a port made again: the datapath opens nothing by an epoch older than it holds
			set(&c.Put.Ports, device, next)
		}
	}
	return c
}

// leaving takes the stations off devices that carry their port no longer, before such a device, or the place it had in the
// kernel, is given to another port: otherwise that one's guest would get their frames.
func leaving(ports map[string]datapath.Port, want map[datapath.FDBKey]datapath.FDB, have datapath.State) (puts, deletes map[datapath.FDBKey]datapath.FDB) {
	changes := false
	for device, now := range have.Ports {
		changes = changes || ports[device].Name != now.Name
	}
	if !changes {
		return nil, nil
	}
	for key, now := range have.FDB {
		if now.Device == "" || ports[now.Device].Name == have.Ports[now.Device].Name && ports[now.Device].Name != "" {
			continue
		}
		if next, wanted := want[key]; wanted && next.Device == "" && newer(next, now) {
			set(&puts, key, next)
		} else {
			set(&deletes, key, now)
		}
	}
	return puts, deletes
}

// quitting takes ports off the segments that they leave, and all those of a device that is to carry another port, before anything
// opens.
func quitting(ports map[string]datapath.Port, want, have datapath.State) map[datapath.SegmentKey]datapath.Segment {
	var gone map[datapath.SegmentKey]datapath.Segment
	for key, now := range have.Segments {
		next, wanted := want.Segments[key]
		port, stays := ports[key.Device]
		if stays && port.Generation != want.Ports[key.Device].Generation {
			continue // the kernel has it from a newer snapshot
		}
		if !wanted || !stays || port.Name != have.Ports[key.Device].Name || next.Tag != now.Tag || now.QinQ && !next.QinQ {
			set(&gone, key, now)
		}
	}
	return gone
}

// misled are the sinks at devices that are to carry another port: its guest must not get the copies for the one before.
func misled(ports map[string]datapath.Port, want, have datapath.State) map[fabric.VNI]datapath.Sink {
	var gone map[fabric.VNI]datapath.Sink
	for vni, s := range have.Sinks {
		if !s.Listen && (ports[s.Device].Name != have.Ports[s.Device].Name || want.Sinks[vni] != s) {
			set(&gone, vni, s)
		}
	}
	return gone
}

// placed are the segments of the devices that carry a port, save those that the kernel has from a newer snapshot.
func placed(ports map[string]datapath.Port, want datapath.State) map[datapath.SegmentKey]datapath.Segment {
	var found map[datapath.SegmentKey]datapath.Segment
	for key, s := range want.Segments {
		if port, there := ports[key.Device]; there && port.Generation == want.Ports[key.Device].Generation {
			set(&found, key, s)
		}
	}
	return found
}

// after is have with what a first change puts and deletes.
func after(have datapath.State, c datapath.Change) datapath.State {
	have.Peers = with(have.Peers, c.Put.Peers, nil)
	have.Ports = with(have.Ports, c.Put.Ports, c.Delete.Ports)
	have.Switches = with(have.Switches, c.Put.Switches, nil)
	have.Tables = with(have.Tables, c.Put.Tables, nil)
	have.FDB = with(have.FDB, c.Put.FDB, c.Delete.FDB)
	have.Segments = with(have.Segments, nil, c.Delete.Segments)
	have.Mirrors = with(have.Mirrors, c.Put.Mirrors, nil)
	have.Sinks = with(have.Sinks, nil, c.Delete.Sinks)
	return have
}

// with is m with puts and without deletes; m itself when there is nothing to do.
func with[K comparable, V any](m, puts, deletes map[K]V) map[K]V {
	if len(puts)+len(deletes) == 0 {
		return m
	}
	out := make(map[K]V, len(m)+len(puts))
	maps.Copy(out, m)
	maps.Copy(out, puts)
	for key := range deletes {
		delete(out, key)
	}
	return out
}

// lacking are the entries that have lacks, or holds in a way that is to be replaced; nil when there is none.
func lacking[K comparable, V any](want, have map[K]V, replace func(want, have V) bool) map[K]V {
	var found map[K]V
	for key, next := range want {
		if now, there := have[key]; there && !replace(next, now) {
			continue
		}
		set(&found, key, next)
	}
	return found
}

// surplus are the entries of have that are not wanted; nil when there is none.
func surplus[K comparable, V any](want, have map[K]V) map[K]V {
	var found map[K]V
	for key, now := range have {
		if _, wanted := want[key]; wanted {
			continue
		}
		set(&found, key, now)
	}
	return found
}

// differs replaces whatever is not equal.
func differs[V comparable](want, have V) bool { return want != have }

// never replaces nothing: what is there under a digest is what is wanted.
func never[V any](_, _ V) bool { return false }

// unnamed are the tables that no port is judged by: a port that the kernel has from a newer snapshot keeps its own.
func unnamed(tables map[policy.Digest]*policy.Source, ports map[string]datapath.Port) map[policy.Digest]*policy.Source {
	for _, p := range ports {
		delete(tables, p.Policy)
	}
	return tables
}

// newer replaces what is not equal unless it comes from a later location.
func newer(want, have datapath.FDB) bool { return want != have && want.Epoch >= have.Epoch }

// empty reports whether a change does nothing.
func empty(c datapath.Change) bool {
	return c.Put.Local == datapath.Local{} && Entries(c.Put) == 0 && Entries(c.Delete) == 0
}

// Entries counts what a state holds.
func Entries(s datapath.State) int {
	return len(s.Peers) + len(s.Switches) + len(s.Ports) + len(s.FDB) + len(s.Neighbors) + len(s.Flood) + len(s.Tables) + len(s.Uplinks) + len(s.Wires) + len(s.Segments) +
		len(s.Mirrors) + len(s.Sinks)
}

// Reborn removes from have what an earlier life of a port has left with a later epoch than its present one: a port that is
// deleted and made again begins its epochs anew, and its entries would otherwise never be replaced. before and after are
// wanted states of two snapshots, the second newer beyond doubt; after an epoch that went down between them, and only
// then, the entry in the kernel is of the earlier life.
func Reborn(before, after, have datapath.State) datapath.Change {
	var c datapath.Change
	for key, next := range after.FDB {
		now, there := have.FDB[key]
		if was, known := before.FDB[key]; there && known && next.Epoch < was.Epoch && next.Epoch < now.Epoch {
			set(&c.Delete.FDB, key, now)
		}
	}
	return c
}

// Adopt replaces what the kernel holds by a wanted state that is older and is to be taken all the same, because an operator
// has confirmed it: stations whose epoch goes back are removed, and ports closed, so that Changes can put the wanted ones.
func Adopt(want, have datapath.State) datapath.Change {
	var c datapath.Change
	for key, next := range want.FDB {
		if now, there := have.FDB[key]; there && next.Epoch < now.Epoch {
			set(&c.Delete.FDB, key, now)
		}
	}
	for device, next := range want.Ports {
		now, there := have.Ports[device]
		if there && now.Name == next.Name && (next.Epoch < now.Epoch || next.Generation < now.Generation) {
			next.Gate = datapath.Closed
			set(&c.Put.Ports, device, next)
		}
	}
	return c
}

// set puts an entry into a map that may be nil.
func set[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = value
}
