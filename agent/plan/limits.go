package plan

import (
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// limits are what the settings let a port send and receive at most.
func limits(of fabric.EffectiveSettings) (l datapath.Limits) {
	for i, to := range []*datapath.Limit{&l.Out, &l.In} {
		if r := of.Rate[i]; r.Max != 0 {
			*to = datapath.Limit{Rate: uint64(r.Max), Burst: 8 * uint64(r.Burst)}
		}
	}
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
