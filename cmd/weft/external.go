package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// uplinksOf reads the values of --uplink: HOST=NIC, or LABEL=VALUE:NIC; several NICs are joined by +, and serve guests by the mode.
func uplinksOf(words []string, mode string, reach []string) ([]fabric.Uplink, error) {
	team := fabric.Uplink{Mode: fabric.UplinkMode(mode)}
	for _, word := range reach {
		address, err := netip.ParseAddr(word)
		if err != nil {
			return nil, fmt.Errorf("--reach %q is no address: write 192.168.1.1", word)
		}
		team.Reach = append(team.Reach, address)
	}
	var out []fabric.Uplink
	for _, word := range words {
		labels, nic, byLabel := strings.Cut(word, ":")
		if !byLabel {
			host, nic, ok := strings.Cut(word, "=")
			if !ok || host == "" || nic == "" {
				return nil, fmt.Errorf("--uplink %q names no host and NIC: write h1=eth1, or rack=a:eth1 for all hosts with that label", word)
			}
			out = append(out, withNICs(fabric.Uplink{Host: fabric.HostID(host)}, nic, team))
			continue
		}
		key, value, ok := strings.Cut(labels, "=")
		if !ok || key == "" || nic == "" {
			return nil, fmt.Errorf("--uplink %q names no label and NIC: write rack=a:eth1", word)
		}
		out = append(out, withNICs(fabric.Uplink{Hosts: map[string]string{key: value}}, nic, team))
	}
	return out, nil
}

// withNICs gives an uplink its NIC, or several.
func withNICs(u fabric.Uplink, names string, team fabric.Uplink) fabric.Uplink {
	u.NIC, u.Reach = names, team.Reach
	if nics := strings.Split(names, "+"); len(nics) > 1 {
		u.NIC, u.NICs, u.Mode = "", nics, team.Mode
	}
	return u
}

// external fills in what goes with uplinks. The time to confirm by is in the record, so that every host knows it: one that the
// change has cut off from etcd takes its NIC back by itself.
func (a *app) external(o *fabric.Switch, noHost bool) {
	if noHost {
		off := false
		o.Spec.HostAccess = &off
	}
	if len(o.Spec.Uplinks) > 0 && a.confirm > 0 {
		by := time.Now().Add(a.confirm).UTC().Truncate(time.Second)
		o.Spec.ConfirmBy, a.confirm = &by, 0
	}
}

// confirmSwitch keeps an external switch that was made with --confirm.
func (a *app) confirmSwitch(ctx context.Context, c *client.Client, name string) error {
	o, err := c.Get(ctx, fabric.KindSwitch, name)
	if err != nil {
		return err
	}
	sw, ok := o.(*fabric.Switch)
	if !ok || sw.Spec.ConfirmBy == nil {
		fmt.Fprintf(a.out, "switch/%s waits for no confirmation\n", name)
		return nil
	}
	sw.Spec.ConfirmBy = nil
	return a.apply(ctx, []fabric.Object{sw}, false)
}

// tellUplinks says what an external switch changes on which NICs, and whom it cuts off; all of it for a plan, else only warnings.
func (a *app) tellUplinks(ctx context.Context, c *client.Client, sw *fabric.Switch, plan bool) error {
	list, err := c.List(ctx, fabric.KindHost)
	if err != nil {
		return err
	}
	var lines, without []string
	var carrier string
	for _, o := range list.Items {
		h, ok := o.(*fabric.Host)
		if !ok {
			continue
		}
		nics := sw.NICsOn(fabric.HostID(h.Metadata.Name), h)
		if len(nics) == 0 {
			without = append(without, h.Metadata.Name)
			continue
		}
		carrier = cmp.Or(carrier, h.Metadata.Name)
		for _, name := range nics {
			lines = append(lines, planOf(sw, h, name, plan)...)
		}
	}
	if plan && len(without) > 0 && carrier != "" {
		lines = append(lines, fmt.Sprintf("%s: no NIC of its own; guests there reach the wire by %s, over VXLAN", strings.Join(without, ", "), carrier))
	}
	if plan && sw.Spec.ConfirmBy != nil {
		lines = append(lines, fmt.Sprintf("off again at %s unless it is confirmed: weft confirm switch %s", sw.Spec.ConfirmBy.Format(time.TimeOnly), sw.Metadata.Name))
	}
	for _, line := range lines {
		fmt.Fprintln(a.err, line)
	}
	return nil
}

// planOf is what changes on one NIC.
func planOf(sw *fabric.Switch, h *fabric.Host, name string, plan bool) (lines []string) {
	at := h.Metadata.Name + " " + name
	n := h.Status.FindNIC(name)
	if n == nil {
		return []string{at + ": the host does not say that it has it"}
	}
	if plan {
		lines = append(lines, fmt.Sprintf("%s: two programs on the NIC (ext_in, ext_out), promiscuous mode on, LRO off where it has it; no address, route or connection of the host changes", at))
		if n.Speed > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d Mbit/s, MTU %d", at, n.Speed, n.MTU))
		}
	}
	switch used := strings.Join(n.Addresses, ", "); {
	case !sw.HostIsOn() && used != "":
		lines = append(lines, fmt.Sprintf("warning: %s: the host is kept off the switch: %s cannot be reached any more, and whoever uses it is cut off", at, used))
	case n.Underlay:
		lines = append(lines, fmt.Sprintf("warning: %s carries the tunnels to the other hosts, and may be the way to etcd", at))
	}
	if !n.Carrier {
		lines = append(lines, fmt.Sprintf("warning: %s has no link: the switch carries nothing by it until it has", at))
	}
	return lines
}

// nicLine is one NIC of a host in a line.
func nicLine(n *fabric.NICStatus) string {
	words := []string{n.Name}
	switch {
	case !n.Up:
		words = append(words, "down")
	case !n.Carrier:
		words = append(words, "no link")
	default:
		words = append(words, "up")
	}
	if n.Speed > 0 {
		words = append(words, fmt.Sprintf("%d Mbit/s", n.Speed))
	}
	words = append(words, fmt.Sprintf("MTU %d", n.MTU))
	words = append(words, n.Addresses...)
	if n.Underlay {
		words = append(words, "underlay")
	}
	if n.Wireless {
		words = append(words, "wireless")
	}
	if n.Bridge != "" {
		words = append(words, "member of "+n.Bridge)
	}
	if n.Silent {
		words = append(words, "leads nowhere")
	}
	if n.Switch != "" {
		words = append(words, "switch "+string(n.Switch))
		if n.Leader != "" {
			words = append(words, "led by "+n.Leader)
		}
	}
	return strings.Join(words, ", ")
}
