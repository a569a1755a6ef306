package fabric

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// PortRange is a port or an inclusive range of ports, written "443" or "8000-8080"; a number is read too.
type PortRange struct {
	First, Last uint16
}

// ParsePortRange reads a port, or first-last; the error wraps ErrInvalid. That a range is not reversed is Validate's to check.
func ParsePortRange(s string) (PortRange, error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || strings.ContainsAny(s, "+_") {
		return PortRange{}, fmt.Errorf("%s is not a port or a range of ports: write it as \"443\" or \"8000-8080\": %w", quote(s), ErrInvalid)
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

// String writes "443" or "8000-8080".
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// MarshalText is String.
func (p PortRange) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePortRange.
func (p *PortRange) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePortRange(string(b))
	return err
}

// UnmarshalJSON reads a text or a number.
func (p *PortRange) UnmarshalJSON(b []byte) error { return p.UnmarshalText(bytes.Trim(b, `"`)) }
