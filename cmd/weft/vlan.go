package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// vlanFlag adds --vlan, which says on which segments of its switch a port is.
func vlanFlag(cmd *cobra.Command, s *fabric.Settings) {
	cmd.Flags().Var(vlanValue{&s.VLAN}, "vlan", "VLAN or isolation id; untagged; trunk:native=1,allowed=10-20; or isolated, community or promiscuous:primary=100,secondary=101")
}

// vlanValue reads --vlan.
type vlanValue struct{ vlan **fabric.VLAN }

func (v vlanValue) String() string {
	if v.vlan == nil || *v.vlan == nil {
		return ""
	}
	return (*v.vlan).String()
}

func (v vlanValue) Set(s string) (err error) {
	*v.vlan, err = fabric.ParseVLAN(s)
	return err
}

func (vlanValue) Type() string { return "VLAN" }

// vlanField is the setting as a FIELD=VALUE.
func vlanField(v *fabric.VLAN) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("write --vlan %s: %w", v, err)
	}
	return "vlan=" + string(b), nil
}

// describeVLAN tells on which segments of its switch the port is.
func (a *app) describeVLAN(ctx context.Context, c *client.Client, p *fabric.Port) error {
	o, err := c.Get(ctx, fabric.KindSwitch, string(p.Spec.Switch))
	if err != nil {
		return err
	}
	sw := o.(*fabric.Switch)
	snap := &fabric.Snapshot{Switches: map[fabric.SwitchID]*fabric.Switch{p.Spec.Switch: sw}, Profiles: map[string]*fabric.Profile{}}
	if name := cmp.Or(p.Spec.Profile, sw.Spec.Profile); name != "" {
		if o, err = c.Get(ctx, fabric.KindProfile, name); err != nil {
			return err
		}
		snap.Profiles[name] = o.(*fabric.Profile)
	}
	for _, line := range effectiveVLAN(p, snap) {
		fmt.Fprintf(a.out, "%-12s %s\n", "VLAN", line)
	}
	if !p.IsHost() && sw.Status.MTU > 0 {
		told := ""
		if sw.ServesDHCP() {
			told = "; DHCP and router advertisements tell it too"
		}
		fmt.Fprintf(a.out, "%-12s %d: host_mtu=%[2]d of a virtio NIC%[3]s\n", "Guest MTU", sw.Status.MTU, told)
	}
	return nil
}

// effectiveVLAN says on which segments a port is, whichever layer says so, with their VNIs.
func effectiveVLAN(p *fabric.Port, snap *fabric.Snapshot) []string {
	v, seg := snap.VLAN(p), snap.Segments(p)
	by := ""
	if p.Spec.VLAN == nil && v != nil {
		by = ", by profile " + snap.Settings(p).Profile
	}
	if !seg.Known {
		return []string{fmt.Sprintf("%s%s: the switch does not list it, the port is closed", v, by)}
	}
	lines := []string{fmt.Sprintf("%s%s: sends on VNI %d", v, by, seg.Sends)}
	if heard := seg.Heard(); len(heard) > 1 || heard[0] != seg.Sends {
		words := make([]string, len(heard))
		for i, vni := range heard {
			words[i] = fmt.Sprint(vni)
		}
		lines[0] += ", receives on " + strings.Join(words, ", ")
	}
	for _, id := range snap.Switches[p.Spec.Switch].Reach(v)[1:] {
		lines = append(lines, fmt.Sprintf("tag %d is VNI %d", id, seg.Tags[id]))
	}
	return lines
}
