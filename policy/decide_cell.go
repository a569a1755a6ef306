package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// stretch is a range of numbers, both ends included.
type stretch struct{ first, last int }

func (s stretch) String() string {
	if s.first == s.last {
		return fmt.Sprint(s.first)
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// cell is packets between two stations that no rule tells apart.
type cell struct {
	etherType  fabric.EtherType // of a frame that is not IP; 0 for all that no rule names
	protocol   stretch          // of IP; all of it is judged alike
	from, to   stretch          // ports
	kind, code stretch          // of ICMP
	flags      uint8            // of TCP
	later      bool             // a fragment without ports
	parts      bool             // the protocol has ports or messages, and later fragments without them
	on         fabric.VNI       // the segment that they travel on, where rules tell segments apart; else 0
	vlan       fabric.VLANID    // of it
}

var anyPort, anyByte = stretch{0, 65535}, stretch{0, 255}

// cellsOf cuts the packets between two stations along every boundary of the rules.
func cellsOf(from, to station, lists ...[]judge) []cell {
	var rules []judge
	for _, l := range lists {
		rules = append(rules, l...)
	}
	if !from.addr.IsValid() || !to.addr.IsValid() {
		return frameCells(rules)
	}
	var out []cell
	for _, protocol := range protocolStretches(rules) {
		base := cell{protocol: protocol, from: anyPort, to: anyPort, kind: anyByte, code: anyByte}
		of := slices.DeleteFunc(slices.Clone(rules), func(j judge) bool {
			return !j.matchesProtocol(&Packet{Protocol: uint8(protocol.first), Source: from.addr, Destination: to.addr})
		})
		switch p := uint8(protocol.first); {
		case p == protocolTCP || p == protocolUDP || p == protocolSCTP:
			out = append(out, portCells(base, of)...)
		case p == protocolICMP && from.addr.Is4() || p == protocolICMPv6 && from.addr.Is6():
			out = append(out, messageCells(base, of)...)
		default:
			out = append(out, base)
		}
	}
	return out
}

func frameCells(rules []judge) []cell {
	types := []fabric.EtherType{0}
	for _, j := range rules {
		if j.EtherType != 0 && j.EtherType != fabric.EtherTypeIPv4 && j.EtherType != fabric.EtherTypeIPv6 && !slices.Contains(types, j.EtherType) {
			types = append(types, j.EtherType)
		}
	}
	out := make([]cell, len(types))
	for i, t := range types {
		out[i] = cell{etherType: t}
	}
	return out
}

// protocolStretches cuts 0 to 255 at the protocols that have messages or ports, and those the rules name.
func protocolStretches(rules []judge) []stretch {
	cuts := []int{0, 256}
	single := func(n int) { cuts = append(cuts, n, n+1) }
	for _, n := range []int{protocolICMP, protocolTCP, protocolUDP, protocolICMPv6, protocolSCTP} {
		single(n)
	}
	for _, j := range rules {
		if n, err := fabric.ParseProtocol(j.Protocol); err == nil {
			single(int(n))
		}
	}
	return stretches(cuts)
}

// spans makes ranges of their beginnings; the last one is past the end.
func stretches(cuts []int) []stretch {
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	out := make([]stretch, 0, len(cuts))
	for i := range len(cuts) - 1 {
		out = append(out, stretch{cuts[i], cuts[i+1] - 1})
	}
	return out
}

// portCells cuts along ports, at both ends, and along flags where a rule asks for any. Fragments without ports are a cell of
// their own.
func portCells(base cell, rules []judge) []cell {
	base.parts = true
	from, to, flags := []int{0, 65536}, []int{0, 65536}, []uint8{FlagSYN}
	for _, j := range rules {
		ends := []*fabric.End{j.Local, j.Remote}
		if j.Direction == fabric.In {
			ends = []*fabric.End{j.Remote, j.Local}
		}
		for i, cuts := range []*[]int{&from, &to} {
			if ends[i] == nil || ends[i].Ports == nil {
				continue
			}
			for _, r := range ends[i].Ports {
				*cuts = append(*cuts, int(r.First), int(r.Last)+1)
			}
		}
		if j.TCPFlags != nil && len(flags) == 1 {
			flags = nil
			for f := range uint8(64) {
				flags = append(flags, f)
			}
		}
	}
	var out []cell
	for _, f := range flags {
		for _, a := range stretches(from) {
			for _, b := range stretches(to) {
				c := base
				c.from, c.to, c.flags = a, b, f
				out = append(out, c)
			}
		}
	}
	base.later = true
	return append(out, base)
}

// messageCells cuts along the types and codes of ICMP; neighbour discovery is judged by nothing and left out.
func messageCells(base cell, rules []judge) []cell {
	base.parts = true
	kinds, codes := []int{0, 256}, []int{0, 256}
	if base.protocol.first == protocolICMPv6 {
		kinds = append(kinds, 133, 138)
	}
	for _, j := range rules {
		if j.ICMP == nil {
			continue
		}
		if j.ICMP.Type != nil {
			kinds = append(kinds, int(*j.ICMP.Type), int(*j.ICMP.Type)+1)
		}
		if j.ICMP.Code != nil {
			codes = append(codes, int(*j.ICMP.Code), int(*j.ICMP.Code)+1)
		}
	}
	var out []cell
	for _, k := range stretches(kinds) {
		if base.protocol.first == protocolICMPv6 && k.first >= 133 && k.last <= 137 {
			continue
		}
		for _, one := range stretches(codes) {
			c := base
			c.kind, c.code = k, one
			out = append(out, c)
		}
	}
	base.later = true
	return append(out, base)
}

// packet is one of the cell's.
func (c cell) packet(from, to station) Packet {
	p := Packet{SourceMAC: from.mac, DestinationMAC: to.mac}
	if !from.addr.IsValid() || !to.addr.IsValid() {
		p.EtherType = c.etherType
		return p
	}
	p.Source, p.Destination, p.Protocol = from.addr, to.addr, uint8(c.protocol.first)
	p.EtherType = fabric.EtherTypeIPv4
	if from.addr.Is6() {
		p.EtherType = fabric.EtherTypeIPv6
	}
	p.SourcePort, p.DestinationPort, p.TCPFlags = uint16(c.from.first), uint16(c.to.first), c.flags
	p.ICMPType, p.ICMPCode = uint8(c.kind.first), uint8(c.code.first)
	p.Fragment, p.Later = c.later, c.later
	return p
}

// services names cells, those that touch as one.
func services(cells []cell) []string {
	cells = merge(cells, func(c *cell) *stretch { return &c.to }, 0)
	cells = merge(cells, func(c *cell) *stretch { return &c.from }, 0)
	cells = merge(cells, func(c *cell) *stretch { return &c.code }, 0)
	cells = merge(cells, func(c *cell) *stretch { return &c.kind }, 133)
	flags := map[cell]uint64{} // of cells that differ in flags alone
	var order []cell
	for _, c := range cells {
		bare := c
		bare.flags = 0
		if _, ok := flags[bare]; !ok {
			order = append(order, bare)
		}
		flags[bare] |= 1 << c.flags
	}
	var out []string
	for _, c := range order {
		other := c // the fragments of a whole protocol, and the other way round
		other.later = !c.later
		_, both := flags[other]
		name := c.String() + flagged(flags[c])
		switch {
		case c.later && both && flagged(flags[other]) == "":
			continue // the protocol's name says it
		case c.fragments() && !c.later && flagged(flags[c]) == "" && !both:
			name += " but later fragments"
		}
		out = append(out, name)
	}
	return out
}

// fragments reports whether the cell is a whole protocol whose later fragments are a cell of their own.
func (c cell) fragments() bool {
	narrow := c.from != anyPort || c.to != anyPort || c.kind != anyByte || c.code != anyByte
	return c.parts && !narrow
}

// flagged says which TCP flags a service is limited to; nothing where no rule asks for flags, or all are alike.
func flagged(set uint64) string {
	if set == 1<<FlagSYN || set == ^uint64(0) || set == 1 {
		return ""
	}
	var with []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg"} {
		always, never := true, true
		for f := range 64 {
			if set>>f&1 == 0 {
				continue
			}
			if f>>i&1 == 0 {
				always = false
			} else {
				never = false
			}
		}
		if always {
			with = append(with, name)
		} else if never {
			with = append(with, "no "+name)
		}
	}
	if len(with) == 0 {
		return " (with some flags)"
	}
	return " (" + strings.Join(with, ", ") + ")"
}

// merge joins cells that are equal but for one stretch, where the stretches touch. Those of ICMPv6 touch across neighbour
// discovery, which begins at gap; 0 is none.
func merge(cells []cell, at func(*cell) *stretch, gap int) []cell {
	var out []cell
	last := map[cell]int{} // by everything but the stretch: where in out the newest one is
	for _, c := range cells {
		key := c
		*at(&key) = stretch{}
		i, ok := last[key]
		next := 0
		if ok {
			next = at(&out[i]).last + 1
		}
		if next == gap && c.parts && c.protocol.first == protocolICMPv6 {
			next += 5
		}
		if ok && next == at(&c).first {
			at(&out[i]).last = at(&c).last
			continue
		}
		last[key] = len(out)
		out = append(out, c)
	}
	return out
}

// String names the service.
func (c cell) String() string {
	switch {
	case c.on == 0:
		return c.service()
	case c.vlan == 0:
		return c.service() + " untagged"
	}
	return fmt.Sprintf("%s on VLAN %d", c.service(), c.vlan)
}

// service names what it is on any segment.
func (c cell) service() string {
	if c.protocol == (stretch{}) && c.kind == (stretch{}) {
		if c.etherType != 0 {
			return "ethertype " + c.etherType.String()
		}
		return "frames that are not IP"
	}
	name := "protocol " + c.protocol.String()
	switch c.protocol.first {
	case protocolTCP:
		name = "tcp"
	case protocolUDP:
		name = "udp"
	case protocolSCTP:
		name = "sctp"
	case protocolICMP:
		name = "icmp"
	case protocolICMPv6:
		name = "icmpv6"
	}
	if c.later {
		return name + " later fragments"
	}
	if c.to != anyPort {
		name += "/" + c.to.String()
	}
	if c.from != anyPort {
		name += " from " + c.from.String()
	}
	if c.kind != anyByte {
		name += " type " + c.kind.String()
	}
	if c.code != anyByte {
		name += " code " + c.code.String()
	}
	return name
}
