package datapath

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// clauseAny stands for any protocol.
const clauseAny = 0x100

// Clause is what a packet must be like; what is zero is not asked for. Local is the guest's end. Fragments but the first have no ports.
type Clause struct {
	// Family is 4 or 6.
	Family uint8
	// Protocol is asked for where HasProtocol is true.
	HasProtocol             bool
	Protocol                uint8
	Local, Remote           netip.Prefix
	LocalPorts, RemotePorts fabric.PortRange
}

func (c Clause) toCore() coreClause {
	core := coreClause{Family: c.Family, Proto: clauseAny, LocalLast: math.MaxUint16, RemoteLast: math.MaxUint16}
	if c.HasProtocol {
		core.Proto = uint16(c.Protocol)
	}
	core.Local, core.LocalMask = prefixToCore(c.Local)
	core.Remote, core.RemoteMask = prefixToCore(c.Remote)
	if c.Local.IsValid() || c.Remote.IsValid() {
		core.Addresses = 1
	}
	if c.LocalPorts != (fabric.PortRange{}) {
		core.Ports, core.LocalFirst, core.LocalLast = 1, c.LocalPorts.First, c.LocalPorts.Last
	}
	if c.RemotePorts != (fabric.PortRange{}) {
		core.Ports, core.RemoteFirst, core.RemoteLast = 1, c.RemotePorts.First, c.RemotePorts.Last
	}
	return core
}

func clauseFromCore(core *coreClause) Clause {
	c := Clause{Family: core.Family, Local: prefixFromCore(core.Local, core.LocalMask), Remote: prefixFromCore(core.Remote, core.RemoteMask)}
	if core.Proto != clauseAny {
		c.HasProtocol, c.Protocol = true, uint8(core.Proto)
	}
	if core.LocalFirst != 0 || core.LocalLast != math.MaxUint16 {
		c.LocalPorts = fabric.PortRange{First: core.LocalFirst, Last: core.LocalLast}
	}
	if core.RemoteFirst != 0 || core.RemoteLast != math.MaxUint16 {
		c.RemotePorts = fabric.PortRange{First: core.RemoteFirst, Last: core.RemoteLast}
	}
	return c
}

// prefixToCore is a prefix as address and mask; IPv4 is below ::ffff:0:0/96.
func prefixToCore(p netip.Prefix) (address, mask coreAddress) {
	if !p.IsValid() {
		return address, mask
	}
	length := p.Bits()
	if p.Addr().Is4() {
		length += 96
	}
	ones := netip.PrefixFrom(netip.AddrFrom16([16]byte(slices.Repeat([]byte{0xff}, 16))), length).Masked().Addr()
	return toCore(p.Masked().Addr()), toCore(ones)
}

func prefixFromCore(address, mask coreAddress) netip.Prefix {
	if mask == (coreAddress{}) && address == (coreAddress{}) {
		return netip.Prefix{}
	}
	length := 0
	for _, w := range mask.W {
		length += bits.OnesCount32(w)
	}
	a := fromCore(address)
	if a.Is4() {
		length -= 96
	}
	return netip.PrefixFrom(a, length)
}
