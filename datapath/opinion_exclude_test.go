package datapath_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/weftnet/weft/policy"
)

// fragmentOf tells which packet a fragment is of, at a station.
type fragmentOf struct {
	from                int
	source, destination netip.Addr
	protocol            uint8 // of IPv4
	id                  uint32
}

// exclusions are the reasons for which a frame is not compared, and what share of all frames each may take. They are explained in
// docs/reference/second-opinion.md by these names.
var exclusions = []struct {
	name  string
	share float64
	holds func(o *opinion, s sample, p policy.Packet, malformed bool) bool
}{
	{"malformed", 0.06, func(_ *opinion, _ sample, _ policy.Packet, malformed bool) bool { return malformed }},
	{"neighbor", 0.03, func(_ *opinion, _ sample, p policy.Packet, _ bool) bool {
		return p.EtherType == typeARP || p.Source.Is6() && p.HasICMP() && !p.Fragment && p.ICMPType >= 133 && p.ICMPType <= 137
	}},
	{"remembered", 0.02, func(o *opinion, s sample, p policy.Packet, _ bool) bool {
		at := fragmentOf{s.from, p.Source, p.Destination, p.Protocol, p.FragmentID}
		if p.Source.Is6() {
			at.protocol = 0
		}
		if p.Fragment && !p.Later {
			o.firsts[at] = true
		}
		return p.Later && o.firsts[at]
	}},
	{"refragmented", 0.02, func(_ *opinion, s sample, p policy.Packet, _ bool) bool {
		return p.Later && p.Source.Is6() && firstFragmentHeader(s.frame)&0xfff8 == 0
	}},
}

// firstFragmentHeader is the offset and flags of the first fragment header of an IPv6 frame.
func firstFragmentHeader(frame []byte) uint16 {
	next, rest := frame[20], frame[54:]
	for next != 44 {
		size := (int(rest[1]) + 1) * 8
		if next == 51 {
			size = (int(rest[1]) + 2) * 4
		}
		next, rest = rest[0], rest[size:]
	}
	return binary.BigEndian.Uint16(rest[2:])
}

// exclude names the reason for which a sample is not compared, empty when it is. It is asked in the order of sending.
func (o *opinion) exclude(s sample) string {
	p, err := policy.Parse(s.frame)
	for _, e := range exclusions {
		if e.holds(o, s, p, err != nil) {
			return e.name
		}
	}
	return ""
}

// account fails when more was left out than may be, or when what was compared says little.
func (o *opinion) account() {
	for _, e := range exclusions {
		if share := float64(o.excluded[e.name]) / float64(o.numbers); share > e.share {
			o.tb.Errorf("%s: %.1f %% of all frames were not compared, the most is %.1f %%", e.name, 100*share, 100*e.share)
		}
	}
	if share := float64(o.allowed) / float64(o.compared); share < 0.1 || share > 0.9 {
		o.tb.Errorf("%.1f %% of the frames pass: this tells nothing", 100*share)
	}
}
