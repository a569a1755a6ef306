package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
)

// Table is what the kernel judges the packets of a port by. A packet has a class in each dimension, each class a vector of
// the rules that its packets may match; the first rule that is in all of its vectors decides.
type Table struct {
	// Digest names what the table decides. It is the same whatever the rules are called and however their lists are ordered.
	Digest Digest
	// Shape names all of it but the addresses and the rules' own words: tables of one shape share their vectors.
	Shape Digest
	// Places names the addresses: which of them has which class.
	Places Digest
	// Sides are of direction out and in.
	Sides [2]Side
}

// Side is one direction of a table.
type Side struct {
	// Decides are the rules that decide, in the order of judgement, the default action last; Meters those that count.
	Decides, Meters []Outcome
	// Dims is the set of dimensions that the rules use, a bit 1<<Dim each.
	Dims uint16
	// Vectors of all classes, save those without a rule.
	Vectors []Vector
	// Services are the classes of protocol and local port, and of the remote port; the longest match counts.
	Services []Service
	// Exacts are the classes of single values.
	Exacts []Exact
	// Addresses are the classes of addresses; the longest match counts.
	Addresses []Address
}

// Stateful reports whether a rule of this side opens flows.
func (s *Side) Stateful() bool {
	for i := range s.Decides {
		if s.Decides[i].Stateful {
			return true
		}
	}
	return false
}

// IsOpen reports whether the side lets everything pass and counts nothing but that.
func (s *Side) IsOpen() bool {
	return len(s.Decides) == 1 && s.Decides[0].Act == ActAllow && len(s.Meters) == 0
}

// Outcome is what a rule does to its packets.
type Outcome struct {
	ID       RuleID
	Act      Act
	Stateful bool
	// Idle is the idle time of the rule's flows, in seconds; 0: as the protocol has it.
	Idle uint32
	// Sample is of how many packets one is logged; 0: none.
	Sample uint32
}

// Dim is a dimension: something of a packet that rules ask for.
type Dim uint8

// The dimensions. A packet that matches no entry of a dimension has class 0 there.
const (
	DimService    Dim = iota // kind, protocol, and local port or ICMP type and code
	DimRemote                // remote address
	DimLocal                 // local address
	DimRemotePort            // remote port of TCP, UDP and SCTP
	DimFlags                 // the lower six TCP flags
	DimEther                 // EtherType
	DimRemoteMAC
	DimLocalMAC
	DimSegment // of a trunk: the VNI of the VLAN that its guest tags, else 0
	dims
)

// Kind is how much of a packet there is to judge.
type Kind uint8

// The kinds of packets in the service dimension.
const (
	KindFrame     Kind = 0 // not IP
	KindPacket    Kind = 1 // IP without a transport header: a later fragment
	KindTransport Kind = 2 // IP with one
)

// Vector holds the rules that packets of a class may match: bit n%64 of word n/64 is rule BlockBits*Block+n. Block
// MaxBlocks holds the meters. Summary has a bit for each word that is not 0.
type Vector struct {
	Dim     Dim
	Block   uint8
	Class   uint16
	Summary uint64
	Words   [BlockBits / 64]uint64
}

// Service is the class of transport headers. Bits is how much of the entry counts: 8 the kind, 16 the protocol too, 24 to 40
// the first bits of the port, or of ICMP type<<8 | code.
type Service struct {
	Dim   Dim
	Kind  Kind
	Proto uint8
	Port  uint16
	Bits  uint8
	Class uint16
}

// Exact is the class of one value: TCP flags, an EtherType, a segment, or a MAC as a big-endian number.
type Exact struct {
	Dim   Dim
	Value uint64
	Class uint16
}

// Address is the class of the addresses of a prefix.
type Address struct {
	Dim    Dim
	Prefix netip.Prefix
	Class  uint16
}

// name computes the digests.
func (t *Table) name() {
	shape, places, words := sha256.New(), sha256.New(), sha256.New()
	var buffer []byte
	for i := range t.Sides {
		s := &t.Sides[i]
		sized(shape, len(s.Vectors), s.Dims)
		for i := range s.Vectors {
			buffer = s.Vectors[i].append(buffer[:0])
			shape.Write(buffer)
		}
		sized(shape, len(s.Services), 0)
		binary.Write(shape, binary.BigEndian, s.Services)
		sized(shape, len(s.Exacts), 0)
		binary.Write(shape, binary.BigEndian, s.Exacts)
		sized(places, len(s.Addresses), 0)
		for _, a := range s.Addresses {
			b := a.Prefix.Addr().As16()
			buffer = append(buffer[:0], byte(a.Dim), flag(a.Prefix.Addr().Is4()), byte(a.Prefix.Bits()), byte(a.Class>>8), byte(a.Class))
			places.Write(append(buffer, b[:]...))
		}
		for _, verdicts := range [][]Outcome{s.Decides, s.Meters} {
			sized(words, len(verdicts), 0)
			for _, v := range verdicts {
				v.ID = 0
				binary.Write(words, binary.BigEndian, v)
			}
		}
	}
	t.Shape, t.Places = digestOf(shape), digestOf(places)
	words.Write(t.Shape[:])
	words.Write(t.Places[:])
	t.Digest = digestOf(words)
}

// append writes the vector as encoding/binary would, which takes a fifth of a large table's compilation.
func (v *Vector) append(b []byte) []byte {
	b = append(b, byte(v.Dim), v.Block, byte(v.Class>>8), byte(v.Class))
	b = binary.BigEndian.AppendUint64(b, v.Summary)
	for _, word := range v.Words {
		b = binary.BigEndian.AppendUint64(b, word)
	}
	return b
}

// sized writes how many elements follow.
func sized(h hash.Hash, n int, more uint16) {
	binary.Write(h, binary.BigEndian, uint32(n))
	binary.Write(h, binary.BigEndian, more)
}
