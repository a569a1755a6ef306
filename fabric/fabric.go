// Package fabric names everything a fleet's virtual switches are made of: hosts, switches, ports, profiles, policies, groups,
// mirrors, moves and events, with their validation and defaults. The same struct is the YAML document, the API body and the etcd
// value, so there is one spelling of every field. The package does no I/O.
package fabric

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// APIVersion is the only schema version this release reads and writes.
const APIVersion = "weft/v1"

// Errors shared by every layer; ask for them with errors.Is.
var (
	// ErrNotFound: the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the object changed since it was read, or a unique value (name, MAC, address, VNI) is taken.
	ErrConflict = errors.New("conflict")
	// ErrStaleEpoch: somebody tried to act on a location older than the one in force.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrInvalid: the input breaks a rule; the message names the field, the line and the remedy.
	ErrInvalid = errors.New("invalid")
)

// Identifiers. Names are DNS labels, 1–63 of [a-z0-9-], beginning and ending with a letter or digit (RFC 1123).
type (
	// HostID is a host's name.
	HostID string
	// SwitchID is a switch's name.
	SwitchID string
	// PortID is a port's name, unique in the whole fabric (not only within its switch), because commands name ports alone.
	PortID string
	// MoveID names one live migration.
	MoveID string
)

// VNI is a VXLAN network identifier, 1 to 2^24-1 (RFC 7348 section 5); 0 means not yet allocated.
type VNI uint32

// MaxVNI is the largest VNI that fits the 24-bit field.
const MaxVNI VNI = 1<<24 - 1

// Epoch fences a port's location: it only rises, and everybody ignores an older one. 0 means never held.
type Epoch uint64

// Revision is an etcd revision. The revision of the last change a host has put in force is its generation.
type Revision int64

// MAC is an Ethernet address in transmission order.
type MAC [6]byte

// ParseMAC reads aa:bb:cc:dd:ee:ff, aa-bb-cc-dd-ee-ff, aabb.ccdd.eeff or aabbccddeeff, in either case.
func ParseMAC(s string) (MAC, error) {
	digits := strings.Map(func(r rune) rune {
		if r == ':' || r == '-' || r == '.' {
			return -1
		}
		return r
	}, s)
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%s is not a MAC address: write it as 52:54:00:12:34:56: %w", quote(s), ErrInvalid)
	}
	return MAC(b), nil
}

// String writes the lower-case colon form.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// IsZero reports whether no MAC was given.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether the address may be a station's: not group, not all-zero.
func (m MAC) IsUnicast() bool { return m[0]&1 == 0 && !m.IsZero() }

// MarshalText writes the colon form; the zero MAC is empty.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText is ParseMAC; empty text is the zero MAC.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	*m, err = ParseMAC(string(b))
	return err
}

// Kind names a noun in documents, keys and commands.
type Kind string

// The kinds of this release.
const (
	KindHost    Kind = "Host"
	KindSwitch  Kind = "Switch"
	KindPort    Kind = "Port"
	KindProfile Kind = "Profile"
	KindGroup   Kind = "Group"
	KindPolicy  Kind = "Policy"
	KindMirror  Kind = "Mirror"
	KindMove    Kind = "Move"
)

// TypeMeta is the head of every document.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       Kind   `json:"kind"`
}

// Metadata is common to all nouns.
type Metadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Revision is the etcd revision of this record's last change; read-only, and in an update the revision it was read at.
	Revision Revision `json:"revision,omitempty"`
	// Trace is the W3C traceparent of the command that wrote this record, so that a watcher gets cause and content together.
	Trace string `json:"trace,omitempty"`
}

// Object is any noun: a pointer to one of the structs of this package.
type Object interface {
	// Type returns the document head.
	Type() *TypeMeta
	// Meta returns the metadata, for reading and writing.
	Meta() *Metadata
	// Default fills what the user left out and what needs no knowledge of other objects.
	Default()
	// Validate checks everything that can be checked without other objects. The error names each bad field by its path
	// ("spec.addresses[1]") and wraps ErrInvalid.
	Validate() error
}

// Prefixes and addresses are netip; a subnet is written without host bits.
type Prefix = netip.Prefix
