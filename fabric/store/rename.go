package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// RenameSwitch gives a switch another name, with its ports, their locations and addresses, and the mirrors that name it, in one
// transaction; VNIs, MACs and epochs stay, so that what is plugged in goes on (ADR 21). Trace is the traceparent of who asked. Errors:
// fabric.ErrNotFound, fabric.ErrInvalid (no name), fabric.ErrConflict (the name is taken, a port is moving, the switch waits for its
// confirmation, or it is internal and a VM is plugged in: the hosts' own devices, and with them the gateway, change their names).
func (s *Store) RenameSwitch(ctx context.Context, from, to fabric.SwitchID, trace string) (fabric.Revision, error) {
	doing := fmt.Sprintf("rename switch %s to %s", from, to)
	for attempt := range attempts {
		if err := s.pause(ctx, attempt); err != nil {
			return 0, fmt.Errorf("%s: %w", doing, err)
		}
		r := &renaming{applying: &applying{draft: s.newDraft(ctx), attempt: attempt}, from: from, to: to}
		if err := r.all(trace); err != nil {
			return 0, fmt.Errorf("%s: %w", doing, err)
		}
		rev, done, err := r.commit(doing)
		if err != nil || done {
			return fabric.Revision(rev), err
		}
	}
	return 0, fmt.Errorf("%s: others wrote the same records %d times in between: try again: %w", doing, attempts, fabric.ErrConflict)
}

// renaming is one attempt at a rename.
type renaming struct {
	*applying
	from, to fabric.SwitchID
}

func (r *renaming) all(trace string) error {
	sw, err := r.head()
	if err != nil {
		return err
	}
	if err := r.settled(sw); err != nil {
		return err
	}
	if sw.Spec.Type == fabric.Internal {
		own, err := r.draft.hostPorts(r.from)
		if err != nil {
			return err
		}
		for _, p := range own { // each host makes its own anew
			if err := r.dropPort(p); err != nil {
				return err
			}
		}
	}
	for _, carry := range []func() error{r.ports, r.locations, r.indexes, r.subnets, r.mirrors} {
		if err := carry(); err != nil {
			return err
		}
	}
	if err := r.remove(objectKey(sw)); err != nil {
		return err
	}
	sw.Metadata.Name, sw.Metadata.Trace = string(r.to), trace
	if err := sw.Validate(); err != nil {
		return err
	}
	if err := r.write(sw); err != nil {
		return err
	}
	return r.gateways(sw)
}

// head is the switch under its old name, when the new one is free.
func (r *renaming) head() (*fabric.Switch, error) {
	if err := fabric.CheckName(string(r.to)); err != nil {
		return nil, err
	}
	o, err := r.object(fabric.KindSwitch, string(r.from))
	if err != nil {
		return nil, err
	}
	sw := as[*fabric.Switch](o)
	if sw == nil {
		return nil, fmt.Errorf("there is none of that name, see 'weft get switches': %w", fabric.ErrNotFound)
	}
	taken, err := r.get(key(fabric.KindSwitch, string(r.to)))
	if err != nil {
		return nil, err
	}
	if taken.revision != 0 {
		return nil, fmt.Errorf("there is a switch %s already: choose another name: %w", r.to, fabric.ErrConflict)
	}
	if sw.Spec.ConfirmBy != nil {
		return nil, fmt.Errorf("it waits for its confirmation: run 'weft confirm switch %s' first: %w", r.from, fabric.ErrConflict)
	}
	return sw, nil
}

// settled refuses while a port moves, and, for an internal switch, while a VM is plugged in.
func (r *renaming) settled(sw *fabric.Switch) error {
	records, err := r.scan(locationsOf(r.from), false)
	if err != nil {
		return err
	}
	var moving, plugged []string
	for _, rec := range records {
		l, err := decodeLocation(rec)
		if err != nil {
			return fmt.Errorf("it cannot be told whether a port is moving: %w", err)
		}
		o, err := r.object(fabric.KindPort, string(l.Port))
		if p := as[*fabric.Port](o); err != nil || p != nil && p.IsHost() {
			continue
		}
		if l.Grant != nil || l.From != "" {
			moving = append(moving, string(l.Port))
		}
		if l.Host != "" {
			plugged = append(plugged, fmt.Sprintf("%s on %s", l.Port, l.Host))
		}
	}
	r.untouched(locationsOf(r.from))
	r.untouched(portsOf(r.from))
	switch {
	case len(moving) > 0:
		return fmt.Errorf("%s is moving: wait for it ('weft get moves'): %w", some("port", "ports", moving), fabric.ErrConflict)
	case sw.Spec.Type == fabric.Internal && len(plugged) > 0:
		return fmt.Errorf("it is internal and has %s plugged in, whose gateway would go while the hosts' devices change their names: stop these VMs first, or make it private for the time: %w",
			some("port", "ports", plugged), fabric.ErrConflict)
	}
	return nil
}

// write writes an object under its key.
func (r *renaming) write(o fabric.Object) error {
	value, err := encodeObject(o)
	if err != nil {
		return err
	}
	return r.put(objectKey(o), value)
}

func (r *renaming) ports() error {
	records, err := r.scan(portsOf(r.from), false)
	if err != nil {
		return err
	}
	for _, rec := range records {
		o, err := decodeObject(rec)
		if err != nil {
			return fmt.Errorf("a port of it cannot be read, apply that again first: %w", err)
		}
		p := as[*fabric.Port](o)
		if err := r.remove(rec.key); err != nil {
			return err
		}
		p.Spec.Switch = r.to
		if err := r.write(p); err != nil {
			return err
		}
		if err := r.put(indexPort(p.Metadata.Name), []byte(r.to)); err != nil {
			return err
		}
	}
	return nil
}

func (r *renaming) locations() error {
	records, err := r.scan(locationsOf(r.from), false)
	if err != nil {
		return err
	}
	for _, rec := range records {
		l, err := decodeLocation(rec)
		if err != nil {
			return err
		}
		l.Switch = r.to
		value, err := encodeLocation(l)
		if err != nil {
			return err
		}
		if err := r.remove(rec.key); err != nil {
			return err
		}
		if err := r.put(locationKey(l.Switch, l.Port), value); err != nil {
			return err
		}
	}
	return nil
}

// indexes carries the addresses of the ports over, and the VNIs of the switch and its VLANs.
func (r *renaming) indexes() error {
	addresses, err := r.scan(indexAddresses(r.from), false)
	if err != nil {
		return err
	}
	for _, rec := range addresses {
		if err := r.remove(rec.key); err != nil {
			return err
		}
		if err := r.put(indexAddresses(r.to)+rec.key[len(indexAddresses(r.from)):], rec.value); err != nil {
			return err
		}
	}
	vnis, err := r.scan(indexVNIs(), false)
	if err != nil {
		return err
	}
	for _, rec := range vnis {
		if string(rec.value) != string(r.from) {
			continue
		}
		if err := r.put(rec.key, []byte(r.to)); err != nil {
			return err
		}
	}
	return nil
}

func (r *renaming) subnets() error {
	all, err := r.allSubnets()
	if err != nil {
		return err
	}
	mine, there := all[string(r.from)]
	if !there {
		return nil
	}
	delete(all, string(r.from))
	all[string(r.to)] = mine
	value, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode the record of all subnets: %w", err)
	}
	return r.put(subnetsKey, value)
}

// mirrors has those that copy from the switch name it as it is called from now on.
func (r *renaming) mirrors() error {
	records, err := r.scan(kindPrefix(fabric.KindMirror), false)
	if err != nil {
		return err
	}
	r.untouched(kindPrefix(fabric.KindMirror))
	for _, rec := range records {
		o, err := decodeObject(rec)
		if err != nil {
			continue // every snapshot reports it
		}
		m := as[*fabric.Mirror](o)
		named := func(s fabric.MirrorSource) bool { return s.Switch == r.from }
		if !slices.ContainsFunc(m.Spec.Sources, named) {
			continue
		}
		for i := range m.Spec.Sources {
			if named(m.Spec.Sources[i]) {
				m.Spec.Sources[i].Switch = r.to
			}
		}
		if err := r.write(m); err != nil {
			return err
		}
	}
	return nil
}
