package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// uplinksOf reads the values of --uplink: HOST=NIC, or LABEL=VALUE:NIC.
func uplinksOf(words []string) ([]fabric.Uplink, error) {
	var out []fabric.Uplink
	for _, word := range words {
		labels, nic, byLabel := strings.Cut(word, ":")
		if !byLabel {
			host, nic, ok := strings.Cut(word, "=")
			if !ok || host == "" || nic == "" {
				return nil, fmt.Errorf("--uplink %q names no host and NIC: write h1=eth1, or rack=a:eth1 for all hosts with that label", word)
			}
			out = append(out, fabric.Uplink{Host: fabric.HostID(host), NIC: nic})
			continue
		}
		key, value, ok := strings.Cut(labels, "=")
		if !ok || key == "" || nic == "" {
			return nil, fmt.Errorf("--uplink %q names no label and NIC: write rack=a:eth1", word)
		}
		out = append(out, fabric.Uplink{Hosts: map[string]string{key: value}, NIC: nic})
	}
	return out, nil
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
