package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
)

// madeBy is the label of ports that a host has made for a guest which its hypervisor plugged in.
const madeBy = "weft/made-by"

// welcome makes the port of a guest's NIC. A port that has the MAC, or one of another guest, stays as it is.
func (l *ledger) welcome(ctx context.Context, r api.LocationReport) (fabric.Location, error) {
	snap, err := l.store.Snapshot(ctx)
	if err != nil {
		return fabric.Location{}, err
	}
	if p := portWith(snap, r.Switch, r.MAC); p != nil {
		return snap.Locations[fabric.PortID(p.Metadata.Name)], nil
	}
	for _, name := range portNames(r.VM, r.MAC) {
		if _, err := l.store.Get(ctx, fabric.KindPort, name); err == nil {
			continue
		} else if !errors.Is(err, fabric.ErrNotFound) {
			return fabric.Location{}, err
		}
		port := &fabric.Port{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
			Metadata: fabric.Metadata{Name: name, Labels: map[string]string{madeBy: string(r.Host)}},
			Spec:     fabric.PortSpec{VM: r.VM, Switch: r.Switch, MAC: r.MAC, Profile: r.Profile},
		}
		_, err := l.store.Apply(ctx, []fabric.Object{port}, store.ApplyOptions{})
		return fabric.Location{Port: fabric.PortID(name), Switch: r.Switch}, err
	}
	return fabric.Location{}, fmt.Errorf("make a port for %s: its names are taken by ports with other MACs: create one with MAC %s: %w", r.VM, r.MAC, fabric.ErrConflict)
}

// portNames are the names for the port of a guest's NIC, the best first: the guest's own, and that with the end of the MAC, which
// tells its NICs apart.
func portNames(vm string, mac fabric.MAC) []string {
	clean := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, vm), "-")
	const ending = 7
	clean = strings.Trim(clean[:min(len(clean), fabric.MaxName-ending)], "-")
	if clean == "" {
		clean = "guest"
	}
	return []string{clean, fmt.Sprintf("%s-%x", clean, mac[3:])}
}

// receive begins the move of a guest that its hypervisor is about to send to the host. Such a move never has a guest sent: it takes
// ports along with one that is, so that no host gets another's guest by asking for it.
func (l *ledger) receive(ctx context.Context, r api.LocationReport) (fabric.Location, error) {
	s := &starter{store: l.store}
	move, err := s.start(ctx, api.MoveRequest{VM: r.VM, To: r.Host}, fabric.DriverLibvirt)
	if err != nil {
		return fabric.Location{}, err
	}
	port := move.Spec.Ports[0]
	grant := &fabric.Grant{Move: fabric.MoveID(move.Metadata.Name), To: move.Spec.To, Epoch: move.Status.Epoch, Rollback: move.Status.Epoch + 1}
	return fabric.Location{Port: port, Host: move.Spec.From, Epoch: move.Status.Epoch - 1, Grant: grant}, nil
}
