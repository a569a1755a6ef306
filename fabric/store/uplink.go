package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// DeleteUnconfirmed removes a switch whose time to be confirmed has passed at now. fabric.ErrConflict when it has been confirmed
// meanwhile, or has ports: then it stays, without its uplinks.
func (s *Store) DeleteUnconfirmed(ctx context.Context, name fabric.SwitchID, now time.Time) error {
	_, err := s.delete(ctx, fabric.KindSwitch, string(name), func(o fabric.Object) error {
		if sw := as[*fabric.Switch](o); sw == nil || !sw.Expired(now) {
			return fmt.Errorf("it waits for no confirmation: %w", fabric.ErrConflict)
		}
		return nil
	})
	return err
}

// uplinks checks the NICs that a switch is to be on, as far as they are new: each host and NIC is there and fit as its host says,
// and no other switch is on it.
func (a *applying) uplinks(s, before *fabric.Switch) error {
	if s.Spec.Type != fabric.External || len(s.Spec.Uplinks) == 0 {
		return nil
	}
	hosts, err := a.hosts()
	if err != nil {
		return err
	}
	var f fabric.Findings
	for i := range s.Spec.Uplinks {
		u := &s.Spec.Uplinks[i]
		if _, known := hosts[u.Host]; u.Host != "" && !known {
			if err := a.missing(fmt.Sprintf("spec.uplinks[%d].host", i), fabric.KindHost, string(u.Host)); err != nil {
				return err
			}
		}
	}
	others, err := a.otherExternals(s.Metadata.Name)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(hosts)) {
		for _, nic := range s.NICsOn(id, hosts[id]) {
			for _, other := range others {
				if slices.Contains(other.NICsOn(id, hosts[id]), nic) {
					f = append(f, fabric.Finding{Path: "spec.uplinks", Message: fmt.Sprintf("%s of host %s is an uplink of switch %s: name another NIC, or add a VLAN to that switch", nic, id, other.Metadata.Name)})
				}
			}
			if before != nil && slices.Contains(before.NICsOn(id, hosts[id]), nic) && before.HostIsOn() == s.HostIsOn() {
				continue
			}
			finding, err := a.unfit(s, id, nic)
			if err != nil {
				return err
			}
			if finding != "" {
				f = append(f, fabric.Finding{Path: "spec.uplinks", Message: finding})
			}
		}
	}
	a.untouched(kindPrefix(fabric.KindSwitch))
	return f.Err()
}

// unfit says why the NIC of a host cannot be the switch's; empty when it can, or when the host does not report.
func (a *applying) unfit(s *fabric.Switch, id fabric.HostID, nic string) (string, error) {
	r, err := a.get(statusKey(id))
	if err != nil || r.revision == 0 {
		return "", err
	}
	var st fabric.HostStatus
	if json.Unmarshal(r.value, &st) != nil {
		return "", nil // what a host says badly is told elsewhere, and forbids nothing
	}
	n := st.FindNIC(nic)
	switch {
	case n == nil:
		return fmt.Sprintf("host %s has no NIC %s: %s", id, nic, choices(st.NICs)), nil
	case n.Unfit() != "":
		return fmt.Sprintf("%s of host %s %s", nic, id, n.Unfit()), nil
	case !n.Up:
		return fmt.Sprintf("%s of host %s is down: on that host run: ip link set %s up", nic, id, nic), nil
	case n.Underlay && !s.HostIsOn():
		return fmt.Sprintf("%s of host %s carries the tunnels to the other hosts, which the host itself ends: leave hostAccess on, or name another NIC", nic, id), nil
	case n.Underlay && s.Spec.ConfirmBy == nil:
		return fmt.Sprintf("%s of host %s is the underlay, and may be the only way to etcd: give a time to confirm it by, with --confirm 60s", nic, id), nil
	}
	return "", nil
}

// choices lists the NICs that could be named.
func choices(nics []fabric.NICStatus) string {
	var names []string
	for i := range nics {
		if nics[i].Unfit() == "" && nics[i].Switch == "" {
			names = append(names, nics[i].Name)
		}
	}
	if len(names) == 0 {
		return "it has none that a switch could be on"
	}
	return "it has " + some("NIC", "NICs", names)
}

// hosts are the hosts that can be read.
func (a *applying) hosts() (map[fabric.HostID]*fabric.Host, error) {
	records, err := a.scan(kindPrefix(fabric.KindHost), false)
	if err != nil {
		return nil, err
	}
	hosts := map[fabric.HostID]*fabric.Host{}
	for _, r := range records {
		if o, err := decodeObject(r); err == nil {
			hosts[fabric.HostID(o.Meta().Name)] = as[*fabric.Host](o)
		}
	}
	return hosts, nil
}

// otherExternals are the other switches that have uplinks.
func (a *applying) otherExternals(name string) ([]*fabric.Switch, error) {
	records, err := a.scan(kindPrefix(fabric.KindSwitch), false)
	if err != nil {
		return nil, err
	}
	var others []*fabric.Switch
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil || o.Meta().Name == name {
			continue
		}
		if sw := as[*fabric.Switch](o); len(sw.Spec.Uplinks) > 0 {
			others = append(others, sw)
		}
	}
	return others, nil
}
