package nic

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/fabric"
)

// facadeAlias marks the bridges that are ours, and names their switch in full.
const facadeAlias = "weft switch "

// Facade is the bridge that stands for a switch on a host: a place where hypervisors put taps by name. It stays
// administratively down, because a down bridge forwards nothing and a raised one would forward past the core.
type Facade struct {
	Bridge string
	Switch fabric.SwitchID
	MTU    int
	// Up is true when somebody has raised the bridge.
	Up bool
	// Plugged are the devices on the bridge, by name, with the host side's own MAC.
	Plugged map[string]Plugged
}

// Plugged is a device that somebody has put on a façade.
type Plugged struct {
	MAC fabric.MAC
	// Veth is true for a veth, false for a tap.
	Veth bool
}

// FacadeName is the bridge that stands for a switch on every host: sw-NAME. A name of more than 12 characters is cut and
// told apart by five hex digits of its SHA-256.
func FacadeName(sw fabric.SwitchID) string { return shorten("sw-", string(sw)) }

// SetFacade makes the switch's façade, lowers it, and sets its MTU; it returns the bridge's name. A device of that name which
// is not a façade is refused.
func SetFacade(sw fabric.SwitchID, mtu int) (string, error) {
	name := FacadeName(sw)
	if err := createBridge(name); err != nil {
		return name, err
	}
	err := change("mark", name, func(l netlink.Link) error {
		switch l.Attrs().Alias {
		case facadeAlias + string(sw):
			return nil
		case "":
			return netlink.LinkSetAlias(l, facadeAlias+string(sw))
		}
		return fmt.Errorf("it is somebody else's bridge (%q); rename it or the switch", l.Attrs().Alias)
	})
	if err != nil {
		return name, err
	}
	if err := SetDown(name); err != nil {
		return name, err
	}
	// After creation: an MTU given at creation is forgotten when the last port leaves, and libvirt copies it to the taps.
	return name, SetMTU(name, mtu)
}

// Facades lists the façades of this namespace by switch.
func Facades() (map[fabric.SwitchID]Facade, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	facades, byIndex := map[fabric.SwitchID]Facade{}, map[int]fabric.SwitchID{}
	for _, l := range links {
		sw, ours := strings.CutPrefix(l.Alias, facadeAlias)
		if l.Kind != "bridge" || !ours {
			continue
		}
		byIndex[l.Index] = fabric.SwitchID(sw)
		facades[fabric.SwitchID(sw)] = Facade{
			Bridge: l.Name, Switch: fabric.SwitchID(sw), MTU: l.MTU, Up: l.Up, Plugged: map[string]Plugged{},
		}
	}
	for _, l := range links {
		sw, on := byIndex[l.Master]
		if !on || l.MAC.IsZero() {
			continue
		}
		facades[sw].Plugged[l.Name] = Plugged{MAC: l.MAC, Veth: l.Kind == "veth"}
	}
	return facades, nil
}
