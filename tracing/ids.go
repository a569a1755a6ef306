package tracing

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// TraceID and SpanID are OpenTelemetry's identifiers. Those of a packet are computed from its session and label, not drawn, so
// that all hosts agree on them without telling one another and without a bit in the packet.
type (
	// TraceID is 16 bytes, written as 32 hex digits; zero is none.
	TraceID [16]byte
	// SpanID is 8 bytes, written as 16 hex digits; zero is none.
	SpanID [8]byte
)

// PacketTrace is the trace of the frame with this label in this session.
func PacketTrace(session uint16, label uint64) TraceID {
	b := append([]byte("t"), make([]byte, 10)...)
	binary.BigEndian.PutUint16(b[1:], session)
	binary.BigEndian.PutUint64(b[3:], label)
	sum := sha256.Sum256(b)
	return TraceID(sum[:16])
}

// again is the trace of another frame with the same label in the same session: content repeats. The first one is number 0.
func (t TraceID) again(number int) TraceID {
	if number == 0 {
		return t
	}
	sum := sha256.Sum256(binary.AppendUvarint(append([]byte("again"), t[:]...), uint64(number)))
	return TraceID(sum[:16])
}

// RootSpan is the span of a packet's whole way.
func RootSpan(t TraceID) SpanID { return span(t, "root") }

// VisitSpan is the span of a packet's way through one host. role is the stage it came in by; attempt counts from 0 the
// times that the host saw the frame come in that way.
func VisitSpan(t TraceID, host fabric.HostID, role Stage, attempt int) SpanID {
	return span(t, "visit", string(host), role.String(), fmt.Sprint(attempt))
}

// StageSpan is the span of the hop number index, from 0, of a visit.
func StageSpan(visit SpanID, stage Stage, index int) SpanID {
	return span(TraceID{}, "stage", string(visit[:]), stage.String(), fmt.Sprint(index))
}

// span hashes the parts with their lengths, so that no two lists of parts are the same bytes.
func span(t TraceID, parts ...string) SpanID {
	b := append(make([]byte, 0, 96), t[:]...)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return SpanID(sum[:8])
}

// IsZero reports whether there is no id.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// String is 32 hex digits.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes 32 hex digits.
func (t TraceID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads 32 hex digits.
func (t *TraceID) UnmarshalText(b []byte) error { return unhex(t[:], b, "trace id") }

// IsZero reports whether there is no id.
func (s SpanID) IsZero() bool { return s == SpanID{} }

// String is 16 hex digits.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// MarshalText writes 16 hex digits.
func (s SpanID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads 16 hex digits.
func (s *SpanID) UnmarshalText(b []byte) error { return unhex(s[:], b, "span id") }

func unhex(to, text []byte, noun string) error {
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("%q is no %s: it has %d hex digits", text, noun, hex.EncodedLen(len(to)))
	}
	if _, err := hex.Decode(to, text); err != nil {
		return fmt.Errorf("%q is no %s: %w", text, noun, err)
	}
	return nil
}
