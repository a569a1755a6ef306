package fabric

import (
	"bytes"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Amount is a whole number of bits, bytes or packets, written with a decimal prefix where it is round: 64k, 100M, 2.5G.
type Amount uint64

// amountUnits are the decimal prefixes, the largest first.
var amountUnits = []struct {
	prefix string
	unit   uint64
}{{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}}

// ParseAmount reads a number with or without a prefix; the error wraps ErrInvalid.
func ParseAmount(s string) (Amount, error) {
	number, unit := s, uint64(1)
	for _, u := range amountUnits {
		if n, found := strings.CutSuffix(s, u.prefix); found {
			number, unit = n, u.unit
		}
	}
	whole, part, _ := strings.Cut(number, ".")
	bad := fmt.Errorf("%s is not an amount: write it as 250000, 64k, 100M or 2.5G: %w", quote(s), ErrInvalid)
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || strings.HasPrefix(whole, "+") || strings.HasSuffix(number, ".") {
		return 0, bad
	}
	over, total := bits.Mul64(n, unit)
	for _, digit := range part {
		if digit < '0' || digit > '9' || unit%10 != 0 {
			return 0, bad
		}
		unit /= 10
		total += uint64(digit-'0') * unit
	}
	if over != 0 || total > 1<<62 {
		return 0, bad
	}
	return Amount(total), nil
}

// String writes the number with the largest prefix that leaves it whole.
func (a Amount) String() string {
	for _, u := range amountUnits {
		if a != 0 && uint64(a)%u.unit == 0 {
			return strconv.FormatUint(uint64(a)/u.unit, 10) + u.prefix
		}
	}
	return strconv.FormatUint(uint64(a), 10)
}

// MarshalText is String.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAmount.
func (a *Amount) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAmount(string(b))
	return err
}

// UnmarshalJSON reads a text or a number.
func (a *Amount) UnmarshalJSON(b []byte) error { return a.UnmarshalText(bytes.Trim(b, `"`)) }
