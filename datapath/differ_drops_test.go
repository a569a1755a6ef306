package datapath_test

import (
	"context"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// compareDrops compares the counters of what rules have kept from a guest or from leaving it.
func (d *differ) compareDrops() {
	all, err := d.h.Counters(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	byRules := func(drops map[tracing.Reason]uint64) uint64 {
		return drops[tracing.ReasonPolicyDenied] + drops[tracing.ReasonPolicyRejected] + drops[tracing.ReasonCtNoFlow]
	}
	for _, g := range d.ports {
		if g == nil {
			continue
		}
		out, in := byRules(all[g.id].DropsIn), byRules(all[g.id].DropsOut)
		if out != g.drops[fabric.Out] || in != g.drops[fabric.In] {
			d.fail(nil, "%s: %d frames dropped out and %d in, want %d and %d", g.id, out, in, g.drops[fabric.Out], g.drops[fabric.In])
		}
	}
}
