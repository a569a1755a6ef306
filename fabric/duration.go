package fabric

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a span of time, written "10m" or "1h30m".
type Duration time.Duration

// String writes the duration without parts that are nothing: "10m", not "10m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-len("0s")]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-len("0m")]
	}
	return s
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a number with a unit, or several ("1h30m"); the error wraps ErrInvalid.
func (d *Duration) UnmarshalText(b []byte) error {
	t, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%s is not a duration: write it as 30s, 10m or 1h30m: %w", quote(string(b)), ErrInvalid)
	}
	*d = Duration(t)
	return nil
}
