package lab

import (
	"errors"
	"fmt"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
)

// Cut pulls the host's cable out of the underlay's switch: nothing reaches it or leaves it, and its own NIC does not see
// that. Heal puts it back.
func (l *Lab) Cut(host fabric.HostID) error { return l.cable(host, "") }

// Heal undoes Cut.
func (l *Lab) Heal(host fabric.HostID) error { return l.cable(host, underlayBridge) }

func (l *Lab) cable(host fabric.HostID, bridge string) error {
	if err := l.checkHost(host); err != nil {
		return err
	}
	return l.underlay().Do(func() error { return nic.SetMaster(string(host), bridge) })
}

// Impair makes frames on their way to the host get lost or doubled, until it is called with other rates. A loss of 1 makes
// the host deaf, not mute: a partition in one direction.
func (l *Lab) Impair(host fabric.HostID, r impair.Rates) error {
	if err := l.checkHost(host); err != nil {
		return err
	}
	pins, err := l.bpfMount("ul")
	if err != nil {
		return err
	}
	return l.underlay().Do(func() error { return impair.Set(string(host), pins, r) })
}

// Impaired is what has happened to frames on their way to a host for which Impair was called.
func (l *Lab) Impaired(host fabric.HostID) (impair.Counts, error) {
	if err := l.checkHost(host); err != nil {
		return impair.Counts{}, err
	}
	return impair.Read(string(host), l.file("ul", "bpf"))
}

// impairUnderlay gives every host the impairments the lab was asked for.
func (l *Lab) impairUnderlay() error {
	rates := impair.Rates{Loss: l.Underlay.Loss, Duplicate: l.Underlay.Duplicate}
	if rates == (impair.Rates{}) {
		return nil
	}
	var errs []error
	for _, host := range HostNames(l.Hosts) {
		errs = append(errs, l.Impair(host, rates))
	}
	return errors.Join(errs...)
}

// RemoveProgram takes every program off the device a guest is plugged in with, as a careless tool would, and returns how
// many there were.
func (l *Lab) RemoveProgram(guest string) (n int, err error) {
	g, err := l.Guest(guest)
	if err != nil {
		return 0, err
	}
	if len(g.Instances) == 0 {
		return 0, fmt.Errorf("guest %s is not plugged in anywhere: %w", guest, fabric.ErrNotFound)
	}
	i := g.Instances[0]
	err = l.HostNamespace(i.Host).Do(func() error {
		n, err = impair.Strip(i.Device)
		return err
	})
	return n, err
}

// underlay is the namespace of the switch between the hosts.
func (l *Lab) underlay() nic.Namespace { return nic.Namespace{Name: l.namespaceName("ul")} }
