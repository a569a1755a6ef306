package plan

import (
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// exit has the ports here share the way out, where one of them has a minimum.
func (w *wanted) exit() {
	var ports []fabric.PortID
	for _, p := range w.state.Ports {
		if p.Limits.Least != (datapath.Least{}) {
			ports = append(ports, p.Name)
		}
	}
	if b := w.snap.BudgetOf(w.host, ports); len(ports) > 0 && b.Capacity != 0 {
		w.state.Local.Exit = datapath.Exit{
			Capacity: uint64(b.Capacity), Host: uint64(b.Own), Default: datapath.Least{Rate: uint64(b.Default.Min), Weight: uint64(b.Default.Weight)},
		}
	}
}

// limits are what the settings let a port send and receive at most.
func limits(of fabric.EffectiveSettings) (l datapath.Limits) {
	for i, to := range []*datapath.Limit{&l.Out, &l.In} {
		if r := of.Rate[i]; r.Max != 0 {
			*to = datapath.Limit{Rate: uint64(r.Max), Burst: 8 * uint64(r.Burst)}
		}
	}
	l.Least = datapath.Least{Rate: uint64(of.Least.Min), Weight: uint64(of.Least.Weight)}
	for i, s := range of.Storm {
		if s.PPS != 0 {
			l.Storm[i].Packets = datapath.Limit{Rate: uint64(s.PPS), Burst: uint64(s.PacketBurst())}
		}
		if s.Rate != 0 {
			l.Storm[i].Bits = datapath.Limit{Rate: uint64(s.Rate), Burst: uint64(s.BitBurst())}
		}
	}
	return l
}
