package nat

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// reg is the register that matches work in; portReg is a second one, for what takes two.
const (
	reg     = 1
	portReg = 2
)

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

// family matches IPv4 or IPv6 packets: tables of family inet have both.
func family(six bool) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal([]byte{proto(six)})}
}

func proto(six bool) byte {
	if six {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// device matches the name of the device a packet came in or goes out by.
func device(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: padded}}
}

// source matches packets from a prefix; of which family is matched before.
func source(p netip.Prefix) []expr.Any {
	offset, length := uint32(12), uint32(4)
	if p.Addr().Is6() {
		offset, length = 8, 16
	}
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: length, Mask: net.CIDRMask(p.Bits(), int(length)*8), Xor: make([]byte, length)},
		equal(p.Masked().Addr().AsSlice()),
	}
}

// destination matches packets to an address; of which family is matched before.
func destination(a netip.Addr) []expr.Any {
	offset, length := uint32(16), uint32(4)
	if a.Is6() {
		offset, length = 24, 16
	}
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}, equal(a.AsSlice())}
}

// toHost matches packets to any address of the host itself.
func toHost() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))}
}

// fromHost matches packets from any address of the host itself.
func fromHost() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))}
}

// notToLoopback matches packets to other addresses than 127.0.0.0/8 or ::1; of which family is matched before.
func notToLoopback(six bool) []expr.Any {
	not := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data} }
	if six {
		return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}, not(netip.IPv6Loopback().AsSlice())}
	}
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1}, not([]byte{127})}
}

func protocol(n uint8) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal([]byte{n})}
}

func destinationPort(n uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, equal(binary.BigEndian.AppendUint16(nil, n))}
}

func icmpType(n uint8) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, equal([]byte{n})}
}

// established matches packets of connections that were let through before, and what belongs to them.
func established() []expr.Any {
	return bits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// turned matches packets of connections whose destination a forward has changed (IPS_DST_NAT, nf_conntrack_common.h).
func turned() []expr.Any { return bits(expr.CtKeySTATUS, 1<<5) }

func bits(key expr.CtKey, any uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(any), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

// turn changes a connection's destination or source; a port of 0 stays.
func turn(kind expr.NATType, to netip.Addr, port uint16) []expr.Any {
	n := &expr.NAT{Type: kind, Family: uint32(proto(to.Is6())), RegAddrMin: reg, RegAddrMax: reg}
	out := []expr.Any{&expr.Counter{}, &expr.Immediate{Register: reg, Data: to.AsSlice()}}
	if port != 0 {
		out = append(out, &expr.Immediate{Register: portReg, Data: binary.BigEndian.AppendUint16(nil, port)})
		n.RegProtoMin, n.RegProtoMax, n.Specified = portReg, portReg, true
	}
	return append(out, n)
}

func verdict(k expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: k}}
}
