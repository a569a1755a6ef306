package fabric

import (
	"bytes"
	"fmt"
	"strconv"
)

// EtherType says what an Ethernet frame carries (IEEE 802.3 clause 3.2.6), written "0x88cc"; a number is read too.
type EtherType uint16

// EtherTypes that rules treat in a way of their own.
const (
	EtherTypeIPv4 EtherType = 0x0800
	EtherTypeARP  EtherType = 0x0806
	EtherTypeIPv6 EtherType = 0x86dd
	// minEtherType is the smallest: what is below is a length.
	minEtherType EtherType = 0x0600
)

// String writes 0x88cc.
func (e EtherType) String() string { return fmt.Sprintf("0x%04x", uint16(e)) }

// MarshalText is String.
func (e EtherType) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads a hexadecimal number with 0x before it, or a decimal one; the error wraps ErrInvalid.
func (e *EtherType) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 0, 16)
	if err != nil {
		return fmt.Errorf("%s is not an EtherType: write it as 0x88cc: %w", quote(string(b)), ErrInvalid)
	}
	*e = EtherType(n)
	return nil
}

// UnmarshalJSON reads a text or a number.
func (e *EtherType) UnmarshalJSON(b []byte) error { return e.UnmarshalText(bytes.Trim(b, `"`)) }
