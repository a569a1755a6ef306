package tracing

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Bounds of a live session.
const (
	// MaxSessions is how many live sessions a host has at once.
	MaxSessions = 16
	// MaxPicks is how many picks a session has.
	MaxPicks = 8
	// MaxSessionTime is how long a session may last.
	MaxSessionTime = time.Hour
	// DefaultRecords is how many records per second a session gets on each host unless it asks for more, up to MaxRecords.
	DefaultRecords = 2000
	MaxRecords     = 50_000
	// MaxOneIn is the thinnest sample.
	MaxOneIn = 1_000_000
)

// LiveSession is a live session as every host knows it: which of the frames that pass are recorded.
type LiveSession struct {
	// ID tells sessions apart in the fabric, never 0.
	ID uint32 `json:"id"`
	// Picks are the frames that are asked for: those of any pick; none asks for all.
	Picks []Pick `json:"picks,omitempty"`
	// OneIn records one of so many frames, chosen by their content, so that every host chooses the same; each when 0 or 1.
	OneIn uint32 `json:"oneIn,omitempty"`
	// Drops records a frame on the host that drops it only.
	Drops bool `json:"drops,omitempty"`
	// Every keeps OneIn as it is when the budget is used up. Otherwise a host asks for ever fewer labels then.
	Every bool `json:"every,omitempty"`
	// MaxRate is how many records per second a host makes at most.
	MaxRate uint32 `json:"maxRate"`
	// TTL is how long the session lives on a host, in ns, whoever is left to end it.
	TTL time.Duration `json:"ttl"`
	// What says for whom and what the session is, for people.
	What string `json:"what,omitempty"`
}

// Pick is what a frame must be like; what is zero is not asked for.
type Pick struct {
	VNI fabric.VNI `json:"vni,omitempty"`
	// From is the port that sends, by its MAC and, on its own host, by where the frame enters. To is the receiver's MAC.
	From    fabric.PortID `json:"from,omitempty"`
	FromMAC fabric.MAC    `json:"fromMAC,omitzero"`
	ToMAC   fabric.MAC    `json:"toMAC,omitzero"`
	// Family is 4 or 6.
	Family uint8 `json:"family,omitempty"`
	// Protocol is an IP protocol number; nil asks for none.
	Protocol *uint8 `json:"protocol,omitempty"`
	// Source and Destination hold the inner addresses; the ports are of TCP and UDP.
	Source           netip.Prefix     `json:"source,omitzero"`
	Destination      netip.Prefix     `json:"destination,omitzero"`
	SourcePorts      fabric.PortRange `json:"sourcePorts,omitzero"`
	DestinationPorts fabric.PortRange `json:"destinationPorts,omitzero"`
}

// Check refuses a session that is out of bounds. The error wraps fabric.ErrInvalid.
func (s LiveSession) Check() error {
	switch {
	case s.ID == 0:
		return fmt.Errorf("live session: it has no number: %w", fabric.ErrInvalid)
	case len(s.Picks) > MaxPicks:
		return fmt.Errorf("live session %d: the filter has %d parts, the most is %d; ask for less at once: %w", s.ID, len(s.Picks), MaxPicks, fabric.ErrInvalid)
	case s.OneIn > MaxOneIn:
		return fmt.Errorf("live session %d: one in %d is thinner than one in %d, the thinnest sample: %w", s.ID, s.OneIn, MaxOneIn, fabric.ErrInvalid)
	case s.MaxRate == 0 || s.MaxRate > MaxRecords:
		return fmt.Errorf("live session %d: %d records per second and host: give 1 to %d: %w", s.ID, s.MaxRate, MaxRecords, fabric.ErrInvalid)
	case s.TTL <= 0 || s.TTL > MaxSessionTime+time.Minute:
		return fmt.Errorf("live session %d: it lasts %v: give at most %v: %w", s.ID, s.TTL, MaxSessionTime, fabric.ErrInvalid)
	}
	return nil
}

// Threshold is the highest label that the session asks for.
func (s LiveSession) Threshold() uint64 { return math.MaxUint64 / uint64(max(1, s.OneIn)) }

// Mark is a stage and what came of it.
type Mark struct {
	Stage  Stage  `json:"stage"`
	Result Result `json:"result"`
}

// Side is a part of a run: before policy.in, or from there on.
type Side struct {
	Port       fabric.PortID   `json:"port,omitempty"`
	Device     string          `json:"device,omitempty"`
	Ifindex    uint32          `json:"ifindex,omitempty"`
	Generation fabric.Revision `json:"generation,omitempty"`
	RuleID     uint64          `json:"ruleID,string,omitempty"`
	Policy     string          `json:"policy,omitempty"`
	Rule       string          `json:"rule,omitempty"`
}

// Run is what one program of a host did with a frame, as far as the frame came there. A frame that goes several ways makes a run for
// each.
type Run struct {
	Host  fabric.HostID `json:"host,omitempty"`
	Marks []Mark        `json:"marks"`
	// Reason is set where the last mark is a drop.
	Reason Reason `json:"reason,omitempty"`
	// Sides are the parts before policy.in and from there on.
	Sides [2]Side `json:"sides"`
	// Time is the wall clock of the host at the run's end, Ktime its CLOCK_MONOTONIC in ns. Took is how long before the frame was met,
	// in ns.
	Time  time.Time     `json:"time"`
	Ktime uint64        `json:"ktime"`
	Took  time.Duration `json:"took"`
	Label uint64        `json:"label,string"`
	// CPU and Number tell a host's records apart; the numbers of a CPU have no gaps but where a record was lost.
	CPU    uint16 `json:"cpu"`
	Number uint32 `json:"number"`

	VNI             fabric.VNI `json:"vni,omitempty"`
	Peer            netip.Addr `json:"peer,omitzero"`
	Length          uint32     `json:"length"`
	Source          netip.Addr `json:"source,omitzero"`
	SourcePort      uint16     `json:"sourcePort,omitempty"`
	Destination     netip.Addr `json:"destination,omitzero"`
	DestinationPort uint16     `json:"destinationPort,omitempty"`
	Protocol        uint8      `json:"protocol,omitempty"`
}

// side is the part that a stage belongs to.
func side(s Stage) int {
	if s >= StagePolicyIn && s != StageWireIn {
		return 1
	}
	return 0
}

// Hops are the run's stages: the last one at its end, the others when it began, because no other time was measured.
func (r Run) Hops() []Hop {
	hops := make([]Hop, len(r.Marks))
	for i, m := range r.Marks {
		s := r.Sides[side(m.Stage)]
		before := r.Took
		if i == len(r.Marks)-1 && i > 0 {
			before = 0
		}
		hops[i] = Hop{
			Host: r.Host, Port: s.Port, Device: s.Device, Ifindex: s.Ifindex, Stage: m.Stage, Result: m.Result,
			Time: r.Time.Add(-before), Ktime: r.Ktime - uint64(before), Label: r.Label, VNI: r.VNI, Peer: r.Peer, Generation: s.Generation, Length: r.Length,
			Source: r.Source, SourcePort: r.SourcePort, Destination: r.Destination, DestinationPort: r.DestinationPort, Protocol: r.Protocol,
		}
		if last := i == len(r.Marks)-1; m.Stage == StagePolicyOut || m.Stage == StagePolicyIn || last && m.Result == ResultDrop {
			hops[i].RuleID, hops[i].Policy, hops[i].Rule = s.RuleID, s.Policy, s.Rule
		}
		if last := i == len(r.Marks)-1; last && m.Result == ResultDrop {
			hops[i].Reason = r.Reason
		}
	}
	return hops
}

// LiveCount is what a host has counted of a session so far.
type LiveCount struct {
	// Met are frames that the session asks for, before its sample; a frame at each program that meets it.
	Met uint64 `json:"met"`
	// Sent, Lost and Denied are records: made, lost for want of room, and not made because the budget was used up.
	Sent   uint64 `json:"sent"`
	Lost   uint64 `json:"lost"`
	Denied uint64 `json:"denied"`
	// Threshold is the highest label that the host asks for still.
	Threshold uint64 `json:"threshold,string"`
}

// LiveBatch is what a host has recorded of a session since it was asked last.
type LiveBatch struct {
	Runs  []Run     `json:"runs"`
	Count LiveCount `json:"count"`
	// Now is the host's wall clock when it answered.
	Now time.Time `json:"now"`
	// Ended is true when the session is not armed there any more.
	Ended bool `json:"ended,omitempty"`
}
