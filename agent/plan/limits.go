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
	return l
}
