package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/weftnet/weft/datapath/nic"
)

// ErrNoForwarding6: the kernel cannot forward IPv6 for single devices, and the host does not forward it for all.
var ErrNoForwarding6 = errors.New("IPv6 of internal switches is not forwarded: forwarding it for single devices needs Linux 6.17; on an older one switch it on for the host: sysctl net.ipv6.conf.all.forwarding=1")

// setting is the sysctl that has a device forward what comes in by it.
func (o Opened) setting() string {
	if o.Six {
		return "net/ipv6/conf/" + o.Device + "/force_forwarding"
	}
	return "net/ipv4/conf/" + o.Device + "/forwarding"
}

// set switches a device's forwarding; one that has gone has none. Devices of our own stay as they are when switched off: who
// forwards by them is our table's to say. And where the host's operator has it forward by all devices since, it goes on to.
func (o Opened) set(c *Config, on bool) error {
	if !on && c.owns(o.Device) {
		return nil
	}
	value := "1"
	if !on {
		if all, err := everywhere(o.Six); all || err != nil {
			return err
		}
		value = "0"
	}
	err := nic.SetSysctl(o.setting(), value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isOn reports whether a setting is on; one that the kernel has not is off.
func isOn(setting string) (bool, error) {
	b, err := os.ReadFile("/proc/sys/" + setting)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(b)) == "1", err
}

// everywhere reports whether the host forwards a family by all its devices, which is its operator's decision: we switch on single
// devices only.
func everywhere(six bool) (bool, error) {
	if six {
		return isOn("net/ipv6/conf/all/forwarding")
	}
	return isOn("net/ipv4/conf/all/forwarding")
}

// open says which devices are to forward and did not without us, given those of which the table says so already: by these, answers
// from the world come back.
func open(c *Config, was []Opened) (opened []Opened, err error) {
	for _, six := range []bool{false, true} {
		if !c.forwards(six) {
			continue
		}
		all, err := everywhere(six)
		if err != nil {
			return nil, err
		}
		if all {
			continue
		}
		devices, err := worldly(c, six)
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			o := Opened{Device: d, Six: six}
			on, err := isOn(o.setting())
			if err != nil {
				return nil, err
			}
			if !on || slices.Contains(was, o) {
				opened = append(opened, o)
			}
		}
	}
	return opened, nil
}

// worldly are the devices by which the host reaches the world: those with an address of the family, but for our own.
func worldly(c *Config, six bool) (names []string, err error) {
	devices, err := nic.Devices()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if !d.Up || d.Name == "lo" || c.owns(d.Name) {
			continue
		}
		addresses, err := nic.Addresses(d.Name)
		if nic.IsGone(err) {
			continue // it went in between
		}
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if a.Addr().Is6() == six && !a.Addr().IsLinkLocalUnicast() {
				names = append(names, d.Name)
				break
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// switchOn has the devices forward that are to: those of the switches, and those that lead to the world.
func switchOn(c *Config, opened []Opened) error {
	var all error
	for _, o := range opened {
		all = errors.Join(all, o.set(c, true))
	}
	for _, s := range c.Switches {
		for _, p := range s.Prefixes {
			if s.NAT {
				all = errors.Join(all, Opened{Device: s.Device, Six: p.Addr().Is6()}.set(c, true))
			}
		}
	}
	if c.forwards(true) {
		on, err := everywhere(true)
		if err == nil && !on {
			if _, none := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding"); none != nil {
				err = fmt.Errorf("%w", ErrNoForwarding6)
			}
		}
		all = errors.Join(all, err)
	}
	return all
}
