package policy

import (
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
)

// FlowState says how far a connection is.
type FlowState string

// The states of a flow.
const (
	FlowOpening FlowState = "opening" // TCP: until the opener acknowledges the answer; others: until answered
	FlowOpen    FlowState = "open"    // both sides have spoken
	FlowClosing FlowState = "closing" // TCP: both sides have sent FIN, or one RST
)

// Idle times of flows whose rule sets none (ADR 10, 9).
const (
	idleTCP         = 8000 * time.Second
	idleTCPOpening  = 60 * time.Second
	idleTCPClosing  = 10 * time.Second
	idleUDP         = 180 * time.Second
	idleUDPOpening  = 30 * time.Second
	idleOther       = 30 * time.Second
	fragmentsKept   = 30 * time.Second
	fragmentPlaces  = 32
	window          = 1 << 20 // bytes past what was seen, within which a FIN counts
	farthestAdvance = 1 << 30 // a larger step of a sequence number is no advance: the largest window (RFC 7323 section 2.3)
)

// Connection is what packets of one flow have in common, as the opener's packets show it.
type Connection struct {
	Segment                     fabric.VNI
	Protocol                    uint8
	Source, Destination         netip.Addr
	SourcePort, DestinationPort uint16
	// Echo is the identifier of an echo.
	Echo uint16
}

// reverse is the connection as the other side's packets show it.
func (c Connection) reverse() Connection {
	c.Source, c.Destination = c.Destination, c.Source
	c.SourcePort, c.DestinationPort = c.DestinationPort, c.SourcePort
	return c
}

// connectionOf is the connection a packet could belong to; false for what belongs to none.
func connectionOf(p Packet) (Connection, bool) {
	c := Connection{Segment: p.Segment, Protocol: p.Protocol, Source: p.Source, Destination: p.Destination}
	switch {
	case !p.HasIP() || p.Later || p.Group() || p.isNeighbor():
		return c, false
	case p.HasPorts():
		c.SourcePort, c.DestinationPort = p.SourcePort, p.DestinationPort
	case p.HasICMP():
		c.Echo = p.Echo
		return c, p.isEcho()
	}
	return c, true
}

// Flow is a connection that a stateful rule allowed at a port.
type Flow struct {
	Connection
	// Direction is that of the opener's packets.
	Direction fabric.Direction
	Rule      RuleRef
	State     FlowState
	// Last is when its last packet came.
	Last time.Time

	// Idle is the idle time of its rule, 0 when it sets none.
	Idle time.Duration
	// Sides are the opener's, and the other's.
	Sides [2]FlowSide

	generation uint64 // of the list that judged it last
}

// FlowSide is what one side of a TCP connection has sent.
type FlowSide struct {
	// Sent and Acked say that it has sent anything, and an acknowledgment; FIN that it has sent one that counts.
	Sent, Acked, FIN bool
	// End is one past the highest sequence number it has sent, Ack the highest it has acknowledged of the other's.
	End, Ack uint32
}

// timeout is how long the flow lives without a packet.
func (f *Flow) timeout() time.Duration {
	base := idleOther
	switch {
	case f.Protocol == protocolTCP:
		base = idleTCP
	case f.Protocol == protocolUDP && f.State == FlowOpening && f.Idle == 0:
		base = idleUDPOpening
	case f.Protocol == protocolUDP:
		base = idleUDP
	}
	if f.Idle != 0 {
		base = f.Idle
	}
	switch {
	case f.Protocol == protocolTCP && f.State == FlowOpening:
		return min(base, idleTCPOpening)
	case f.Protocol == protocolTCP && f.State == FlowClosing:
		return min(base, idleTCPClosing)
	}
	return base
}

// advance takes a packet of the flow into account; from is 0 for the opener's, 1 for the other side's.
func (f *Flow) advance(p Packet, from int, now time.Time) {
	f.Last = now
	if f.Protocol != protocolTCP {
		if from == 1 {
			f.State = FlowOpen
		}
		return
	}
	mine, other := &f.Sides[from], &f.Sides[1-from]
	closing := f.closes(p, mine, other)
	if f.State == FlowOpening && p.TCPFlags&FlagSYN != 0 {
		*mine = FlowSide{} // another attempt, with numbers of its own
	}
	mine.send(p)
	switch {
	case closing:
		f.State = FlowClosing
	case f.State == FlowOpening && from == 0 && f.Sides[1].Sent && p.TCPFlags&FlagACK != 0 && p.TCPFlags&FlagSYN == 0:
		f.State = FlowOpen
	}
}

// closes reports whether the packet ends the connection: a RST of one side that counts, or the second side's FIN.
func (f *Flow) closes(p Packet, mine, other *FlowSide) bool {
	low, high := mine.End-window, mine.End
	if other.Acked {
		low = other.Ack
		if int32(low-high) > 0 { // what was acknowledged was sent
			high = low
		}
	}
	switch {
	case p.TCPFlags&FlagRST != 0 && !mine.Sent:
		return p.TCPFlags&FlagACK != 0 && other.Sent && p.Acknowledgment == other.End
	case p.TCPFlags&FlagRST != 0:
		return within(p.Sequence, low, high)
	case p.TCPFlags&FlagFIN != 0 && mine.Sent && within(p.Sequence, low, high+window):
		mine.FIN = true
	}
	return mine.FIN && other.FIN
}

// within reports low ≤ n ≤ high in sequence numbers, which wrap (RFC 9293 section 3.4).
func within(n, low, high uint32) bool { return n-low <= high-low }

// send remembers how far a side has sent and acknowledged.
func (s *FlowSide) send(p Packet) {
	end := p.Sequence + p.Payload
	for _, one := range []uint8{FlagSYN, FlagFIN} { // each takes a sequence number
		if p.TCPFlags&one != 0 {
			end++
		}
	}
	if p.TCPFlags&FlagRST == 0 && (!s.Sent || end-s.End < farthestAdvance) {
		s.Sent, s.End = true, end
	}
	if p.TCPFlags&FlagACK != 0 && p.TCPFlags&FlagRST == 0 && (!s.Acked || p.Acknowledgment-s.Ack < farthestAdvance) {
		s.Acked, s.Ack = true, p.Acknowledgment
	}
}
