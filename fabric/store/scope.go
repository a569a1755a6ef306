package store

import (
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// sameScope reports whether a switch is on the same hosts in both records.
func sameScope(s, before *fabric.Switch) bool {
	return (s.Spec.Hosts == nil) == (before.Spec.Hosts == nil) && slices.Equal(s.Spec.Hosts, before.Spec.Hosts)
}

// scope checks that the hosts of a switch are there, and that no VM's port is, is wanted, or is on its way to one that it leaves.
func (a *applying) scope(s, before *fabric.Switch) error {
	for i, id := range s.Spec.Hosts {
		if err := a.refer(fmt.Sprintf("spec.hosts[%d]", i), fabric.KindHost, string(id)); err != nil {
			return err
		}
	}
	if before == nil || s.Spec.Hosts == nil || sameScope(s, before) {
		return nil
	}
	sw := fabric.SwitchID(s.Metadata.Name)
	locations, err := a.scan(locationsOf(sw), false)
	if err != nil {
		return err
	}
	held := map[string]fabric.Location{}
	for _, r := range locations {
		l, err := decodeLocation(r)
		if err != nil {
			return fmt.Errorf("it cannot be told whether a port is on a host outside spec.hosts: %w", err)
		}
		held[string(l.Port)] = l
	}
	records, err := a.scan(portsOf(sw), false)
	if err != nil {
		return err
	}
	var left []string
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return fmt.Errorf("it cannot be told whether a port is on a host outside spec.hosts: %w", err)
		}
		p := as[*fabric.Port](o)
		if id := outside(s, p, held[p.Metadata.Name]); id != "" && !p.IsHost() {
			left = append(left, fmt.Sprintf("%s on %s", p.Metadata.Name, id))
		}
	}
	a.untouched(locationsOf(sw))
	a.untouched(portsOf(sw))
	if len(left) > 0 {
		return fmt.Errorf("spec.hosts: it would leave %s: add these hosts, or migrate the VMs (and change spec.host of ports that want such a host) first: %w",
			some("port", "ports", left), fabric.ErrConflict)
	}
	return nil
}

// outside is a host that the switch does not cover and the port is at, on its way to, or wants; empty when there is none.
func outside(s *fabric.Switch, p *fabric.Port, l fabric.Location) fabric.HostID {
	at := []fabric.HostID{l.Host, l.From, p.Spec.Host}
	if l.Grant != nil {
		at = append(at, l.Grant.To)
	}
	for _, id := range at {
		if id != "" && !s.Covers(id) {
			return id
		}
	}
	return ""
}

// inScope checks that a port wants a host that its switch is on.
func inScope(p *fabric.Port, s *fabric.Switch) error {
	if p.Spec.Host == "" || s.Covers(p.Spec.Host) {
		return nil
	}
	return fmt.Errorf("spec.host: switch %s is not on host %s, but on %s: choose one of these, or add the host to the switch's hosts: %w",
		s.Metadata.Name, p.Spec.Host, hostList(s), fabric.ErrConflict)
}

func hostList(s *fabric.Switch) string {
	names := make([]string, len(s.Spec.Hosts))
	for i, id := range s.Spec.Hosts {
		names[i] = string(id)
	}
	return some("host", "hosts", names)
}

// covered makes the commit depend on the switch of a location as it is, when a host comes to hold the port or is granted it: one that
// the switch leaves meanwhile does not. It is fabric.ErrConflict when the host is outside already, and who decided it reads again.
func (d *draft) covered(l fabric.Location) error {
	to := l.Host
	if l.Grant != nil {
		to = l.Grant.To
	}
	if to == "" || l.From != "" {
		return nil
	}
	r, err := d.get(key(fabric.KindSwitch, string(l.Switch)))
	if err != nil || r.revision == 0 {
		return err
	}
	d.unchanged(r.key)
	o, err := decodeObject(r)
	if err != nil {
		return nil // every snapshot reports it; where a port may be, it does not say
	}
	if sw := as[*fabric.Switch](o); !sw.Covers(to) {
		return fmt.Errorf("switch %s is not on host %s: %w", l.Switch, to, fabric.ErrConflict)
	}
	return nil
}

// named keeps a host that switches name: without it, they would be somewhere else than they say.
func (d *deleting) named(id fabric.HostID) error {
	switches, err := d.where(fabric.KindSwitch, func(o fabric.Object) bool {
		sw := as[*fabric.Switch](o)
		return slices.Contains(sw.Spec.Hosts, id) || slices.ContainsFunc(sw.Spec.Uplinks, func(u fabric.Uplink) bool { return u.Host == id })
	})
	if err != nil || len(switches) == 0 {
		return err
	}
	return fmt.Errorf("it is among the hosts or uplinks of %s: take it out there first (weft set switch NAME hosts=[…] uplinks=[…]): %w",
		some("switch", "switches", switches), fabric.ErrConflict)
}
