package libvirt

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// network is one of libvirt's networks.
type network struct {
	uuid              string
	active, autostart bool
}

// networkUUID is the UUID of the network that stands for a switch, the same on every host: one of the form that RFC 9562 section 5.8
// leaves to its maker. It is how a network is known to be weft's: libvirt before 9.7 keeps no other mark on a network.
func networkUUID(sw fabric.SwitchID) string {
	sum := sha256.Sum256([]byte("weft switch " + string(sw)))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// networkXML is the network that stands for a switch: a name for its façade bridge. A guest's portgroup is not declared, libvirt
// hands any to the hooks.
func networkXML(sw fabric.SwitchID) string {
	return fmt.Sprintf("<network>\n  <name>%s</name>\n  <uuid>%s</uuid>\n  <forward mode='bridge'/>\n  <bridge name='%s'/>\n</network>\n", sw, networkUUID(sw), nic.FacadeName(sw))
}

// networks lists the daemon's networks by name.
func (h Host) networks(ctx context.Context) (map[string]network, error) {
	out, err := h.virsh(ctx, "net-list", "--all")
	if err != nil {
		return nil, err
	}
	all := map[string]network{}
	for line := range strings.Lines(out) {
		// NAME STATE AUTOSTART PERSISTENT; a network's name has no blanks where it is a switch's.
		f := strings.Fields(line)
		if len(f) != 4 {
			continue
		}
		uuid, err := h.virsh(ctx, "net-uuid", f[0])
		if err != nil {
			return nil, err
		}
		all[f[0]] = network{uuid: strings.TrimSpace(uuid), active: f[1] == "active", autostart: f[2] == "yes"}
	}
	return all, nil
}

// define makes the switch's network, or makes it run.
func (h Host) define(ctx context.Context, sw fabric.SwitchID, have network) error {
	if have.uuid == "" {
		file, remove, err := scratch(networkXML(sw))
		if err != nil {
			return err
		}
		defer remove()
		if _, err := h.virsh(ctx, "net-define", file); err != nil {
			return err
		}
	}
	if !have.active {
		if _, err := h.virsh(ctx, "net-start", string(sw)); err != nil {
			return err
		}
	}
	if have.autostart {
		return nil
	}
	_, err := h.virsh(ctx, "net-autostart", string(sw))
	return err
}

// undefine removes the network of a switch. One with guests on it stays, because libvirt would lose sight of their NICs.
func (h Host) undefine(ctx context.Context, name string, have network) error {
	ports, err := h.virsh(ctx, "net-port-list", name)
	if err != nil && have.active {
		return err
	}
	if strings.TrimSpace(ports) != "" {
		return fmt.Errorf("network %s of libvirt stays: guests are plugged into it: stop them, or take their NICs off it, and try again: %w", name, fabric.ErrConflict)
	}
	if have.active {
		if _, err := h.virsh(ctx, "net-destroy", name); err != nil {
			return err
		}
	}
	_, err = h.virsh(ctx, "net-undefine", name)
	return err
}
