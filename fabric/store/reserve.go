package store

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// minima collects whether an apply may have changed what ports have for certain of their hosts' ways out.
type minima struct {
	everywhere bool // a profile, switch or host has changed
	ports      []*fabric.Port
}

// changedMinimum notes a profile whose minimum has changed.
func (a *applying) changedMinimum(before, now *fabric.Profile) {
	of := func(p *fabric.Profile) (l fabric.Least, speaks bool) {
		if p == nil || p.Spec.Rate == nil || p.Spec.Rate.Out == nil {
			return l, false
		}
		return fabric.Least{Min: p.Spec.Rate.Out.Min, Weight: p.Spec.Rate.Out.Weight}, true
	}
	was, spoke := of(before)
	is, speaks := of(now)
	a.minima.everywhere = a.minima.everywhere || was != is || (spoke != speaks && before != nil)
}

// changedShares notes a switch whose ports share in another way, or have another profile.
func (a *applying) changedShares(before, now *fabric.Switch) {
	flow := func(s *fabric.Switch) (l fabric.Least) {
		if s != nil && s.Spec.QoS != nil && s.Spec.QoS.DefaultFlow != nil {
			return *s.Spec.QoS.DefaultFlow
		}
		return l
	}
	if flow(before) != flow(now) || (before != nil && before.Spec.Profile != now.Spec.Profile) {
		a.minima.everywhere = true
	}
}

// reserved checks that a switch's ports have minima of one kind, and that each host concerned has enough for those of the ports it holds, in
// the state the draft would leave behind. Two applies at the same time can pass it and give away too much together; then all have less.
func (a *applying) reserved() error {
	concerned := a.minima.everywhere
	for _, p := range a.minima.ports {
		if concerned {
			break
		}
		least, err := a.leastOf(p)
		if err != nil {
			return err
		}
		concerned = least != (fabric.Least{})
	}
	if !concerned {
		return nil
	}
	snap, err := a.sharers()
	if err != nil {
		return err
	}
	if err := snap.MixedMinima(); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(snap.Hosts)) {
		if !a.minima.everywhere && !slices.ContainsFunc(a.minima.ports, func(p *fabric.Port) bool { return isOn(snap.Locations[fabric.PortID(p.Metadata.Name)], id) }) {
			continue // what other hosts have given away is not this change's
		}
		if err := snap.Budget(id).Err(); err != nil {
			return err
		}
	}
	return nil
}

// isOn reports whether a port is on the host, or on its way there.
func isOn(l fabric.Location, host fabric.HostID) bool {
	return l.Host == host || (l.Grant != nil && l.Grant.To == host)
}

// leastOf is what a port is to have for certain.
func (a *applying) leastOf(p *fabric.Port) (l fabric.Least, err error) {
	snap := &fabric.Snapshot{Switches: map[fabric.SwitchID]*fabric.Switch{}, Profiles: map[string]*fabric.Profile{}}
	o, err := a.object(fabric.KindSwitch, string(p.Spec.Switch))
	if err != nil {
		return l, err
	}
	profile := p.Spec.Profile
	if sw := as[*fabric.Switch](o); sw != nil {
		snap.Switches[p.Spec.Switch] = sw
		profile = cmp.Or(profile, sw.Spec.Profile)
	}
	if profile != "" {
		o, err := a.object(fabric.KindProfile, profile)
		if err != nil {
			return l, err
		}
		if one := as[*fabric.Profile](o); one != nil {
			snap.Profiles[profile] = one
		}
	}
	return snap.Settings(p).Least, nil
}

// sharers are all that decides who has what for certain; what cannot be read is reported by every snapshot, and has nothing.
func (a *applying) sharers() (*fabric.Snapshot, error) {
	snap := &fabric.Snapshot{
		Hosts: map[fabric.HostID]*fabric.Host{}, Switches: map[fabric.SwitchID]*fabric.Switch{}, Ports: map[fabric.PortID]*fabric.Port{},
		Profiles: map[string]*fabric.Profile{}, Locations: map[fabric.PortID]fabric.Location{},
	}
	for _, kind := range []fabric.Kind{fabric.KindHost, fabric.KindSwitch, fabric.KindProfile, fabric.KindPort} {
		records, err := a.scan(kindPrefix(kind), false)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if o, err := decodeObject(r); err == nil {
				snap = put(snap, o)
			}
		}
	}
	records, err := a.scan(locationPrefix, false)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if l, err := decodeLocation(r); err == nil {
			snap.Locations[l.Port] = l
		}
	}
	return snap, nil
}

func put(snap *fabric.Snapshot, o fabric.Object) *fabric.Snapshot {
	name := o.Meta().Name
	switch o := o.(type) {
	case *fabric.Host:
		snap.Hosts[fabric.HostID(name)] = o
	case *fabric.Switch:
		snap.Switches[fabric.SwitchID(name)] = o
	case *fabric.Profile:
		snap.Profiles[name] = o
	case *fabric.Port:
		snap.Ports[fabric.PortID(name)] = o
	}
	return snap
}
