package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// Source is all that one port is judged by.
type Source struct {
	// Policies in the order in which they are asked: the port's, its profile's, its switch's.
	Policies []*fabric.Policy
	// Default decides where no rule does: allow or deny; empty is allow.
	Default fabric.Action
	// VNI is that of the segment that the port sends on, and VLAN its number in the switch; Tags are the VNIs of a trunk's VLANs: for
	// rules that ask for them.
	VNI  fabric.VNI
	VLAN fabric.VLANID
	Tags map[fabric.VLANID]fabric.VNI
	// Groups are the members of every group that the rules name, as they are on the port's switch.
	Groups map[string][]netip.Prefix
}

// Digest names a table or a part of one by its content: the first half of a SHA-256.
type Digest [16]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether the digest names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// RuleID names a rule on every host alike, for counters and hops.
type RuleID uint64

// ID is the name of a rule of a policy.
func ID(policy, rule string) RuleID {
	sum := sha256.Sum256([]byte(policy + "\x00" + rule))
	return RuleID(binary.BigEndian.Uint64(sum[:]))
}

// DefaultID is the name of what decides in a direction where no rule does.
func DefaultID(d fabric.Direction) RuleID { return ID("", string(d)) }

// IsOpen reports whether there is nothing to judge by: no rules, and a default that allows.
func (s Source) IsOpen() bool {
	for _, p := range s.Policies {
		if len(p.Spec.Rules) > 0 {
			return false
		}
	}
	return s.Default != fabric.Deny
}

// Digest is a name for what the source compiles to, the rules' names included. It is the same for equal rules however
// their lists are ordered, and does not need them to be compiled.
func (s Source) Digest() Digest {
	h, r := sha256.New(), newReader(s)
	for _, d := range directions {
		decides, meters := r.lines(d)
		for _, lines := range [][]line{decides, meters} {
			var head [4]byte
			binary.BigEndian.PutUint32(head[:], uint32(len(lines)))
			h.Write(head[:])
			for i := range lines {
				binary.Write(h, binary.BigEndian, uint64(lines[i].ID))
				lines[i].write(h)
			}
		}
	}
	return digestOf(h)
}

func digestOf(h hash.Hash) (d Digest) {
	copy(d[:], h.Sum(nil))
	return d
}

// directions in the order of the kernel's numbers.
var directions = [2]fabric.Direction{fabric.Out, fabric.In}

// Limits of one direction of a table.
const (
	// BlockBits is how many rules one vector covers, and MaxBlocks how many vectors a class has for deciding rules.
	BlockBits = 4096
	MaxBlocks = 4
	// MaxDecisions are the rules that decide, the default action included; MaxMeters those that count.
	MaxDecisions = BlockBits * MaxBlocks
	MaxMeters    = BlockBits
	// MaxClasses is how many classes one dimension may have.
	MaxClasses = 1 << 16
)

// Compile makes the table of a source. It is pure: equal sources give equal tables. An error says which limit the rules
// exceed.
func Compile(s Source) (*Table, error) {
	t, r := &Table{}, newReader(s)
	for i, d := range directions {
		decides, meters := r.lines(d)
		if len(decides) > MaxDecisions || len(meters) > MaxMeters {
			return nil, fmt.Errorf("compile the rules of direction %s: %d that decide and %d meters, the most are %d and %d: name fewer policies",
				d, len(decides)-1, len(meters), MaxDecisions-1, MaxMeters)
		}
		side, err := compileSide(decides, meters)
		if err != nil {
			return nil, fmt.Errorf("compile the rules of direction %s: %w", d, err)
		}
		t.Sides[i] = side
	}
	t.name()
	return t, nil
}
