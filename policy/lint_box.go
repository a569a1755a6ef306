package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	"github.com/weftnet/weft/fabric"
)

// key is a number of up to 128 bits: an address, a port, a MAC.
type key struct{ high, low uint64 }

func (k key) less(o key) bool { return k.high < o.high || k.high == o.high && k.low < o.low }
func (k key) next() key       { return key{k.high + b2u(k.low == ^uint64(0)), k.low + 1} }
func (k key) previous() key   { return key{k.high - b2u(k.low == 0), k.low - 1} }

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// section is a range of keys, both ends included.
type section struct{ first, last key }

// keys is a set as ranges that are in order and do not touch.
type keys []section

func numbers(first, last uint64) keys { return keys{{key{low: first}, key{low: last}}} }

// joinedKeys orders ranges and joins those that touch.
func joinedKeys(k keys) keys {
	slices.SortFunc(k, func(a, b section) int {
		switch {
		case a.first.less(b.first):
			return -1
		case b.first.less(a.first):
			return 1
		}
		return 0
	})
	out := keys{}
	for _, s := range k {
		if n := len(out); n > 0 && !out[n-1].last.next().less(s.first) && out[n-1].last.next() != (key{}) {
			if out[n-1].last.less(s.last) {
				out[n-1].last = s.last
			}
			continue
		}
		if n := len(out); n > 0 && !out[n-1].last.less(s.first) {
			continue // the ranges before reach the end of all
		}
		out = append(out, s)
	}
	return out
}

// and is what is in both sets.
func (k keys) and(o keys) keys {
	var out keys
	for i, j := 0, 0; i < len(k) && j < len(o); {
		first, last := k[i].first, k[i].last
		if first.less(o[j].first) {
			first = o[j].first
		}
		if o[j].last.less(last) {
			last = o[j].last
		}
		if !last.less(first) {
			out = append(out, section{first, last})
		}
		if k[i].last.less(o[j].last) {
			i++
		} else {
			j++
		}
	}
	return out
}

// touches reports whether the sets have a key in common.
func (k keys) touches(o keys) bool {
	for i, j := 0, 0; i < len(k) && j < len(o); {
		switch {
		case k[i].last.less(o[j].first):
			i++
		case o[j].last.less(k[i].first):
			j++
		default:
			return true
		}
	}
	return false
}

// without is what is in k and not in o.
func (k keys) without(o keys) keys {
	var out keys
	for _, s := range k {
		rest, gone := s, false
		for _, cut := range o {
			if cut.last.less(rest.first) || rest.last.less(cut.first) {
				continue
			}
			if rest.first.less(cut.first) {
				out = append(out, section{rest.first, cut.first.previous()})
			}
			if !cut.last.less(rest.last) {
				gone = true
				break
			}
			rest.first = cut.last.next()
		}
		if !gone {
			out = append(out, rest)
		}
	}
	return out
}

// within reports whether all of k is in o.
func (k keys) within(o keys) bool {
	j := 0
	for _, s := range k {
		for j < len(o) && o[j].last.less(s.first) {
			j++
		}
		if j == len(o) || s.first.less(o[j].first) || o[j].last.less(s.last) {
			return false
		}
	}
	return true
}

// The axes of a box.
const (
	axisProtocol = iota
	axisLater
	axisLocalPort
	axisRemotePort
	axisEtherType
	axisICMP
	axisFlags
	axisVNI
	axisVLAN
	axisLocalMAC
	axisRemoteMAC
	axisRemote
	axisLocal
	axes
)

// box is the packets of one family that a rule matches: those whose every axis is in its set.
type box [axes]keys

// family is IPv4, IPv6, or no IP.
type family int

const (
	family4 family = iota
	family6
	noIP
	families
)

// everything is the box of all packets of a family.
func everything(f family) box {
	b := box{
		axisProtocol: numbers(0, 255), axisLater: numbers(0, 1), axisLocalPort: numbers(0, 65535), axisRemotePort: numbers(0, 65535),
		axisICMP: numbers(0, 65535), axisFlags: numbers(0, 63), axisVNI: numbers(0, uint64(fabric.MaxVNI)), axisVLAN: numbers(0, uint64(fabric.MaxVNI)),
		axisLocalMAC: numbers(0, 1<<48-1), axisRemoteMAC: numbers(0, 1<<48-1), axisLocal: {{key{}, key{^uint64(0), ^uint64(0)}}},
	}
	switch f {
	case family4:
		b[axisEtherType], b[axisLocal] = numbers(0x0800, 0x0800), numbers(0, 1<<32-1)
	case family6:
		b[axisEtherType] = numbers(0x86dd, 0x86dd)
	case noIP:
		b[axisEtherType] = keys{{key{}, key{low: 0x07ff}}, {key{low: 0x0801}, key{low: 0x0805}}, {key{low: 0x0807}, key{low: 0x86dc}}, {key{low: 0x86de}, key{low: 0xffff}}}
	}
	b[axisRemote] = b[axisLocal]
	return b
}

// boxOf is what a rule matches of a family; false when it is nothing.
func (j judge) boxOf(f family) (box, bool) {
	if f == noIP && j.NeedsIP() {
		return box{}, false
	}
	b := everything(f)
	narrow := func(axis int, set keys) { b[axis] = b[axis].and(joinedKeys(set)) }
	if j.VNI != 0 {
		narrow(axisVNI, numbers(uint64(j.VNI), uint64(j.VNI)))
	}
	if j.VLAN != 0 {
		narrow(axisVLAN, numbers(uint64(j.VLAN), uint64(j.VLAN)))
	}
	if j.EtherType != 0 {
		narrow(axisEtherType, numbers(uint64(j.EtherType), uint64(j.EtherType)))
	}
	if n, err := protocolNumber(j.Protocol); err == nil && j.Protocol != "" {
		narrow(axisProtocol, numbers(n, n))
		if j.ICMP != nil && (f == family4) != (n == protocolICMP) {
			return box{}, false
		}
	}
	for _, e := range []struct {
		end              *fabric.End
		prefixes         []netip.Prefix
		axis, port, macs int
	}{{j.Local, j.local, axisLocal, axisLocalPort, axisLocalMAC}, {j.Remote, j.remote, axisRemote, axisRemotePort, axisRemoteMAC}} {
		if e.prefixes != nil {
			narrow(e.axis, prefixKeys(e.prefixes, f))
		}
		if e.end == nil {
			continue
		}
		if e.end.Ports != nil {
			set := keys{}
			for _, r := range e.end.Ports {
				set = append(set, numbers(uint64(r.First), uint64(r.Last))...)
			}
			narrow(e.port, set)
			narrow(axisLater, numbers(0, 0))
		}
		if e.end.MACs != nil {
			set := keys{}
			for _, m := range e.end.MACs {
				n := binary.BigEndian.Uint64(append([]byte{0, 0}, m[:]...))
				set = append(set, numbers(n, n)...)
			}
			narrow(e.macs, set)
		}
	}
	if j.ICMP != nil {
		narrow(axisICMP, messageKeys(j.ICMP))
		narrow(axisLater, numbers(0, 0))
	}
	if j.TCPFlags != nil {
		narrow(axisFlags, flagKeys(j))
		narrow(axisLater, numbers(0, 0))
	}
	for _, set := range b {
		if len(set) == 0 {
			return box{}, false
		}
	}
	return b, true
}

func protocolNumber(s string) (uint64, error) {
	if n, ok := map[string]uint64{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}[s]; ok {
		return n, nil
	}
	return strconv.ParseUint(s, 10, 8)
}

func prefixKeys(prefixes []netip.Prefix, f family) keys {
	set := keys{}
	for _, p := range prefixes {
		if p.Addr().Is4() != (f == family4) || f == noIP {
			continue
		}
		set = append(set, section{addrKey(p.Addr()), addrKey(lastOf(p))})
	}
	return set
}

func addrKey(a netip.Addr) key {
	if a.Is4() {
		b := a.As4()
		return key{low: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// messageKeys are ICMP's types and codes as type × 256 + code.
func messageKeys(m *fabric.ICMPMatch) keys {
	switch {
	case m.Type == nil:
		return numbers(0, 65535)
	case m.Code == nil:
		return numbers(uint64(*m.Type)<<8, uint64(*m.Type)<<8|255)
	}
	n := uint64(*m.Type)<<8 | uint64(*m.Code)
	return numbers(n, n)
}

func flagKeys(j judge) keys {
	set := keys{}
	for f := range uint64(64) {
		if j.matchesFlags(&Packet{Source: netip.IPv4Unspecified(), Protocol: protocolTCP, TCPFlags: uint8(f)}) {
			set = append(set, numbers(f, f)...)
		}
	}
	return set
}

// telling are the axes in the order in which they tell rules apart.
var telling = [axes]int{
	axisRemote, axisLocal, axisLocalPort, axisRemotePort, axisProtocol, axisEtherType, axisICMP, axisRemoteMAC, axisLocalMAC, axisFlags,
	axisVNI, axisVLAN, axisLater,
}

// apart reports whether the ends of the sets show already that the boxes have no packet in common; most have none.
func (b *box) apart(o *box) bool {
	for _, d := range &telling {
		mine, theirs := b[d], o[d]
		if mine[len(mine)-1].last.less(theirs[0].first) || theirs[len(theirs)-1].last.less(mine[0].first) {
			return true
		}
	}
	return false
}

// meets reports whether two boxes have a packet in common.
func (b *box) meets(o *box) bool {
	if b.apart(o) {
		return false
	}
	for d := range axes {
		if !b[d].touches(o[d]) {
			return false
		}
	}
	return true
}

// inside reports whether all of b is in o.
func (b *box) inside(o *box) bool {
	for d := range axes {
		if !b[d].within(o[d]) {
			return false
		}
	}
	return true
}

// covered reports whether the boxes together hold all of b, and marks in used those that were needed. It gives up, and says
// no, when the budget of steps is spent.
func (b *box) covered(by []*box, used []bool, budget *int) bool {
	*budget -= len(by) + 1
	if *budget < 0 {
		return false
	}
	for i, o := range by {
		if !b.meets(o) {
			continue
		}
		used[i] = true
		rest := *b
		for d := range axes {
			if outside := rest[d].without(o[d]); len(outside) > 0 {
				piece := rest
				piece[d] = outside
				if !piece.covered(by[i+1:], used[i+1:], budget) {
					return false
				}
			}
			rest[d] = rest[d].and(o[d])
		}
		return true
	}
	return false
}
