package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Delete removes an object with everything that belongs to it, and returns the revision of the removal. An object that
// others need is kept: fabric.ErrConflict with the list of who needs it. fabric.ErrNotFound when it does not exist.
func (s *Store) Delete(ctx context.Context, kind fabric.Kind, name string) (fabric.Revision, error) {
	return s.delete(ctx, kind, name, func(fabric.Object) error { return nil })
}

// delete is Delete of an object that passes the check as it is when it is removed.
func (s *Store) delete(ctx context.Context, kind fabric.Kind, name string, check func(fabric.Object) error) (fabric.Revision, error) {
	doing := fmt.Sprintf("delete %s %s", word(kind), name)
	for attempt := range attempts {
		if err := s.pause(ctx, attempt); err != nil {
			return 0, fmt.Errorf("%s: %w", doing, err)
		}
		d := &deleting{s.newDraft(ctx), check}
		if err := d.one(kind, name); err != nil {
			return 0, fmt.Errorf("%s: %w", doing, err)
		}
		rev, done, err := d.commit(doing)
		if err != nil {
			return 0, err
		}
		if done {
			return fabric.Revision(rev), nil
		}
	}
	return 0, fmt.Errorf("%s: others wrote the same records %d times in between: try again: %w", doing, attempts, fabric.ErrConflict)
}

// deleting is one attempt at a delete.
type deleting struct {
	*draft
	check func(fabric.Object) error
}

func (d *deleting) one(kind fabric.Kind, name string) error {
	if err := fabric.CheckName(name); err != nil {
		return err
	}
	o, err := d.object(kind, name)
	if err != nil {
		return err
	}
	if o == nil {
		return fmt.Errorf("there is none, see 'weft get': %w", fabric.ErrNotFound)
	}
	if err := d.check(o); err != nil {
		return err
	}
	switch o := o.(type) {
	case *fabric.Host:
		err = d.host(o)
	case *fabric.Switch:
		err = d.sw(o)
	case *fabric.Port:
		if o.IsHost() {
			return fmt.Errorf("it is the port of host %s itself, and goes with switch %s or with the host: %w", o.Spec.Host, o.Spec.Switch, fabric.ErrConflict)
		}
		err = d.port(o)
	case *fabric.Profile:
		err = d.profile(name)
	case *fabric.Policy:
		err = d.policy(name)
	case *fabric.Group:
		err = d.group(name)
	case *fabric.Mirror:
		err = d.remove(indexVNI(o.Spec.VNI))
	case *fabric.Move:
		err = d.move(o)
	}
	if err != nil {
		return err
	}
	return d.remove(objectKey(o))
}

// host is kept while a port wants it or is held there; its own ports go with it.
func (d *deleting) host(h *fabric.Host) error {
	id := fabric.HostID(h.Metadata.Name)
	if err := d.ownPorts(id); err != nil {
		return err
	}
	users, err := d.portsWhere(func(p *fabric.Port) bool { return p.Spec.Host == id })
	if err != nil {
		return err
	}
	if err := d.named(id); err != nil {
		return err
	}
	records, err := d.scan(locationPrefix, false)
	if err != nil {
		return err
	}
	for _, r := range records {
		l, err := decodeLocation(r)
		if err != nil {
			return fmt.Errorf("it cannot be told whether a port is held there: %w", err)
		}
		if l.Host == id || l.From == id || l.Grant != nil && l.Grant.To == id {
			users = append(users, string(l.Port))
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("it is wanted by, or holds, %s: migrate or delete them first: %w", some("port", "ports", users), fabric.ErrConflict)
	}
	d.untouched(locationPrefix)
	return d.remove(indexVTEP(h.Spec.VTEP))
}

// ownPorts removes the ports that are the host's own.
func (d *deleting) ownPorts(host fabric.HostID) error {
	records, err := d.scan(kindPrefix(fabric.KindSwitch), true)
	if err != nil {
		return err
	}
	for _, r := range records {
		p, _ := parse(r.key)
		o, err := d.object(fabric.KindPort, string(fabric.HostPort(host, fabric.SwitchID(p.name))))
		if err != nil {
			return err
		}
		if port := as[*fabric.Port](o); port != nil && port.IsHost() && port.Spec.Host == host {
			if err := d.dropPort(port); err != nil {
				return err
			}
		}
	}
	return nil
}

// sw is kept while it has ports other than those of the hosts themselves, which go with it.
func (d *deleting) sw(s *fabric.Switch) error {
	id := fabric.SwitchID(s.Metadata.Name)
	own, err := d.hostPorts(id)
	if err != nil {
		return err
	}
	for _, p := range own {
		if err := d.dropPort(p); err != nil {
			return err
		}
	}
	ports, err := d.scan(portsOf(id), true)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		names := make([]string, len(ports))
		for i, r := range ports {
			names[i] = strings.TrimPrefix(r.key, portsOf(id))
		}
		return fmt.Errorf("it has %s: delete them first: %w", some("port", "ports", names), fabric.ErrConflict)
	}
	d.untouched(portsOf(id))
	all, err := d.allSubnets()
	if err != nil {
		return err
	}
	if _, ok := all[s.Metadata.Name]; ok {
		delete(all, s.Metadata.Name)
		value, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("encode the record of all subnets: %w", err)
		}
		if err := d.put(subnetsKey, value); err != nil {
			return err
		}
	}
	for _, v := range s.Spec.VLANs {
		if err := d.remove(indexVNI(v.VNI)); err != nil {
			return err
		}
	}
	return d.remove(indexVNI(s.Spec.VNI))
}

// port is kept while a move takes it elsewhere; its location goes with it.
func (d *deleting) port(p *fabric.Port) error {
	if err := d.forwarded(p); err != nil {
		return err
	}
	name := p.Metadata.Name
	loc, err := d.get(locationKey(p.Spec.Switch, fabric.PortID(name)))
	if err != nil {
		return err
	}
	if loc.revision != 0 {
		if l, err := decodeLocation(loc); err == nil && l.Grant != nil {
			return fmt.Errorf("move %s is taking it to host %s: wait for the move, or abort it: %w", l.Grant.Move, l.Grant.To, fabric.ErrConflict)
		}
		if err := d.remove(loc.key); err != nil {
			return err
		}
	}
	for _, addr := range p.Spec.Addresses {
		if err := d.remove(indexAddress(p.Spec.Switch, addr)); err != nil {
			return err
		}
	}
	for _, mac := range p.Spec.AllowedMACs() {
		if err := d.remove(indexMAC(mac)); err != nil {
			return err
		}
	}
	return errors.Join(d.remove(indexMAC(p.Spec.MAC)), d.remove(indexPort(name)))
}

// profile is kept while a port or switch names it.
func (d *deleting) profile(name string) error {
	ports, err := d.portsWhere(func(p *fabric.Port) bool { return p.Spec.Profile == name })
	if err != nil {
		return err
	}
	switches, err := d.where(fabric.KindSwitch, func(o fabric.Object) bool { return as[*fabric.Switch](o).Spec.Profile == name })
	if err != nil {
		return err
	}
	return inUse("give them another profile first", some("switch", "switches", switches), some("port", "ports", ports))
}

// move is kept while it runs.
func (d *deleting) move(m *fabric.Move) error {
	switch m.Status.Phase {
	case fabric.MoveSettled, fabric.MoveFailed, fabric.MoveAborted:
		return nil
	}
	return fmt.Errorf("it is %s: wait until it is settled, or abort it: %w", m.Status.Phase, fabric.ErrConflict)
}

// portsWhere names the ports that match, and makes the commit depend on no port having been written since.
func (d *deleting) portsWhere(match func(*fabric.Port) bool) ([]string, error) {
	records, err := d.scan(kindPrefix(fabric.KindPort), false)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return nil, fmt.Errorf("it cannot be told whether a port uses it: %w", err)
		}
		if p := as[*fabric.Port](o); match(p) {
			names = append(names, p.Metadata.Name)
		}
	}
	d.untouched(kindPrefix(fabric.KindPort))
	return names, nil
}

// some lists up to ten names: "3 ports (a, b, c)"; empty for none.
func some(one, many string, names []string) string {
	const shown = 10
	slices.Sort(names)
	names = slices.Compact(names)
	switch n := len(names); {
	case n == 0:
		return ""
	case n == 1:
		return fmt.Sprintf("%s %s", one, names[0])
	case n > shown:
		return fmt.Sprintf("%d %s (%s and %d more)", n, many, strings.Join(names[:shown], ", "), n-shown)
	default:
		return fmt.Sprintf("%d %s (%s)", n, many, strings.Join(names, ", "))
	}
}
