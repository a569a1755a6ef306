package store

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// services checks what the services of internal switches need of the rest, in the state that the draft would leave behind: each
// forward leads to a port that is there, from a port of the hosts that no other forward has, and no guest may be a second DHCP
// server.
func (a *applying) services() error {
	for _, sw := range a.served.switches {
		if err := a.forwards(sw); err != nil {
			return fmt.Errorf("%s: %w", fabric.Ref(sw), err)
		}
	}
	return a.servers()
}

// served collects what an apply has changed that services depend on.
type served struct {
	switches []*fabric.Switch
	profiles bool // one has changed
}

// forwards checks those of one switch.
func (a *applying) forwards(sw *fabric.Switch) error {
	begins := map[string]int{}
	for i, w := range sw.Spec.Services.NAT.Forwards {
		begins[w.Begins()] = i
		field := fmt.Sprintf("spec.services.nat.forwards[%d].port", i)
		o, err := a.object(fabric.KindPort, w.Port)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		p := as[*fabric.Port](o)
		switch {
		case p == nil:
			return fmt.Errorf("%s: there is no port %q: create it first, or in the same apply: %w", field, w.Port, fabric.ErrInvalid)
		case p.Spec.Switch != fabric.SwitchID(sw.Metadata.Name):
			return fmt.Errorf("%s: port %s is on switch %s: name a port of this switch, or forward on that one: %w", field, w.Port, p.Spec.Switch, fabric.ErrInvalid)
		case !slices.ContainsFunc(p.Spec.Addresses, func(ip netip.Addr) bool { return inside(sw.Spec.Subnets, ip) && !isLinkLocal(ip) }):
			return fmt.Errorf("%s: port %s has no address to forward to: give it one: %w", field, w.Port, fabric.ErrInvalid)
		}
		a.present(portKey(p.Spec.Switch, w.Port))
	}
	if len(begins) == 0 {
		return nil
	}
	records, err := a.scan(kindPrefix(fabric.KindSwitch), false)
	if err != nil {
		return err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // what cannot be read is reported by every snapshot
		}
		other := as[*fabric.Switch](o)
		if other.Metadata.Name == sw.Metadata.Name {
			continue
		}
		for j, w := range other.Spec.Services.NAT.Forwards {
			if i, clash := begins[w.Begins()]; clash {
				return fmt.Errorf("spec.services.nat.forwards[%d]: %s is forwarded by switch %s already (its forwards[%d], to port %s): choose another host port: %w",
					i, w.Begins(), other.Metadata.Name, j, w.Port, fabric.ErrConflict)
			}
		}
	}
	a.untouched(kindPrefix(fabric.KindSwitch))
	return nil
}

// servers checks that no port whose guest may answer DHCP is on a switch where the hosts do.
func (a *applying) servers() error {
	ports := a.judged.ports
	if len(a.served.switches) > 0 || a.served.profiles {
		records, err := a.scan(kindPrefix(fabric.KindPort), false)
		if err != nil {
			return err
		}
		for _, r := range records {
			if o, err := decodeObject(r); err == nil {
				ports = append(ports, as[*fabric.Port](o))
			}
		}
		if a.served.profiles || a.servesAnew() {
			a.untouched(kindPrefix(fabric.KindPort)) // one that is written meanwhile would not have been looked at
		}
	}
	for _, p := range ports {
		if err := a.onlyServer(p); err != nil {
			return err
		}
	}
	return nil
}

// servesAnew reports whether a switch of the apply has a DHCP server of the hosts'.
func (a *applying) servesAnew() bool {
	return slices.ContainsFunc(a.served.switches, func(sw *fabric.Switch) bool { return sw.ServesDHCP() })
}

func (a *applying) onlyServer(p *fabric.Port) error {
	o, err := a.object(fabric.KindSwitch, string(p.Spec.Switch))
	sw := as[*fabric.Switch](o)
	if err != nil || sw == nil || !sw.ServesDHCP() || p.IsHost() {
		return nil
	}
	profile := p.Spec.Profile
	if profile == "" {
		profile = sw.Spec.Profile
	}
	layers, whose := []fabric.Guards{p.Spec.Guards}, "its own guards"
	if profile != "" {
		if o, err := a.object(fabric.KindProfile, profile); err == nil && o != nil {
			a.unchanged(key(fabric.KindProfile, profile)) // it must not turn the guard off meanwhile
			layers = append(layers, as[*fabric.Profile](o).Spec.Guards)
		}
		if p.Spec.Guards.DHCPServer == nil {
			whose = "profile " + profile
		}
	}
	if fabric.ResolveGuards(layers...).DHCPServer {
		return nil
	}
	return fmt.Errorf("port/%s: %s lets its guest be a DHCP server (guards.dhcpServer: false), and switch %s has one, the hosts': turn the guard on, or set spec.services.dhcp.enabled: false on the switch: %w",
		p.Metadata.Name, whose, sw.Metadata.Name, fabric.ErrConflict)
}

// forwarded says which forward leads to a port that is to be deleted.
func (d *deleting) forwarded(p *fabric.Port) error {
	k := key(fabric.KindSwitch, string(p.Spec.Switch))
	r, err := d.get(k)
	if err != nil || r.revision == 0 {
		return err
	}
	o, err := decodeObject(r)
	if err != nil {
		return nil // what cannot be read forwards nothing
	}
	for i, w := range as[*fabric.Switch](o).Spec.Services.NAT.Forwards {
		if w.Port == p.Metadata.Name {
			return fmt.Errorf("spec.services.nat.forwards[%d] of switch %s leads to it from %s of the hosts: remove the forward first: %w", i, p.Spec.Switch, w.Begins(), fabric.ErrConflict)
		}
	}
	if r.revision != 0 && len(as[*fabric.Switch](o).Spec.Services.NAT.Forwards) > 0 {
		d.unchanged(k)
	}
	return nil
}
