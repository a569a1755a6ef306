package tracing

import (
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Mode says how a path was found.
type Mode string

// The modes. ModeProbe is a frame of our own, sent through the real datapath and caught before the guest; ModeExplain a frame that
// is only thought of, by the records and the reference model.
const (
	ModeProbe   Mode = "probe"
	ModeExplain Mode = "explain"
	// ModeLive is a frame of a guest, recorded as it passed.
	ModeLive Mode = "live"
)

// Verdict is what became of a frame.
type Verdict string

// The verdicts. Unknown means that the records end before the frame does; the hosts that did not answer are in
// Path.Missing.
const (
	Delivered Verdict = "delivered"
	Dropped   Verdict = "dropped"
	Unknown   Verdict = "unknown"
)

// Path is one frame's way through all hosts: a tree, because a broadcast has many ends.
type Path struct {
	TraceID TraceID `json:"traceID"`
	Mode    Mode    `json:"mode"`
	Session uint16  `json:"session,omitempty"`
	Label   uint64  `json:"label,string,omitempty"`

	Verdict Verdict `json:"verdict"`
	// Reason is why the frame was dropped; empty unless Verdict is dropped.
	Reason Reason `json:"reason,omitempty"`
	// Rule and Policy name what decided; empty where no rule did.
	Rule   string `json:"rule,omitempty"`
	Policy string `json:"policy,omitempty"`
	// Generation is the one under which the frame was judged where its way ended.
	Generation fabric.Revision `json:"generation,omitempty"`

	// Frame is what was sent, from the Ethernet header on.
	Frame []byte `json:"frame,omitempty"`
	// Start is when the first hop was recorded, on that host's clock.
	Start time.Time `json:"start,omitzero"`
	// Hops are in the order of the way: each visit to a host in the order of its stages, followed by what came of it.
	Hops []Step `json:"hops"`
	// Flips, in ModeExplain, are changes of single records that turn the verdict over, the one with the least effect first.
	Flips []Flip `json:"flips,omitempty"`
	// Changes are the operations that wrote what decided here: the policy of the rule, where the two ports are, the port whose setting it
	// was. Those of which no operation is known are left out.
	Changes []Change `json:"changes,omitempty"`
	// Reply is the way of the answer, where it was asked for and there is one to send.
	Reply *Path `json:"reply,omitempty"`
	// Missing are the hosts that did not do what they were asked, and why.
	Missing []Missing `json:"missing,omitempty"`
}

// Step is a hop in its place in the tree.
type Step struct {
	Hop
	// SpanID is the hop's own span, ParentID the span of the hop before it; zero at the beginning.
	SpanID   SpanID `json:"spanID"`
	ParentID SpanID `json:"parentID,omitzero"`
	// VisitID is common to the hops of one passage through one host.
	VisitID SpanID `json:"visitID"`
	// Depth is how many hosts the frame has been at before.
	Depth int `json:"depth"`
	// Attempt counts the frame's visits to the same host by the same way, from 0: above 0 it is a duplicate.
	Attempt int `json:"attempt,omitempty"`
	// AfterUs is the time since the path's start in µs. Between hosts it is as good as their clocks agree, and never negative.
	AfterUs float64 `json:"afterUs"`
	// PeerHost is the host that owns Peer; empty where no host is known to.
	PeerHost fabric.HostID `json:"peerHost,omitempty"`
}

// Missing is a host that did not answer.
type Missing struct {
	Host fabric.HostID `json:"host"`
	// Asked is what it was asked to do: arm, collect or disarm.
	Asked string `json:"asked"`
	Error string `json:"error"`
}

// Sentence says the outcome and, where there is one, the next step.
func (p *Path) Sentence() string {
	switch p.Verdict {
	case Delivered:
		end := p.end(Hop.Arrives)
		if end == nil {
			return "Delivered."
		}
		if end.Result == ResultAnswered {
			return fmt.Sprintf("Answered by the fabric on %s after %.0f µs.", end.Host, end.AfterUs)
		}
		if p.Mode == ModeExplain {
			return fmt.Sprintf("It would be delivered%s on %s.", to(end), end.Host)
		}
		return fmt.Sprintf("Delivered%s on %s after %.0f µs.", to(end), end.Host, end.AfterUs)
	case Dropped:
		end := p.end(func(h Hop) bool { return h.Ends() && h.Reason == p.Reason })
		s := "Dropped"
		if p.Mode == ModeExplain {
			s = "It would be dropped"
		}
		if end != nil {
			s += fmt.Sprintf(" on %s at %s", end.Host, end.Stage)
		}
		if name := RuleName(p.Policy, p.Rule); name != "" {
			s += " by " + name
		}
		s += fmt.Sprintf(": %s (%s).", p.Reason, p.Reason.Doc())
		if fix := p.Reason.Fix(); fix != "" {
			s += " Next: " + fix + "."
		}
		return s
	}
	return "Unknown: " + p.lastSeen() + "."
}

// lastSeen says where the records end and who might know more.
func (p *Path) lastSeen() string {
	s := "no host saw the frame"
	if n := len(p.Hops); n > 0 {
		last := p.Hops[n-1]
		s = fmt.Sprintf("last seen on %s at %s", last.Host, last.Stage)
		if last.Peer.IsValid() && last.Stage.leaves() {
			s += fmt.Sprintf(" on its way to %s", peerName(last))
		}
	}
	var absent []string
	for _, m := range p.Missing {
		if m.Asked != "disarm" {
			absent = append(absent, fmt.Sprintf("%s (%s: %s)", m.Host, m.Asked, m.Error))
		}
	}
	if len(absent) > 0 {
		s += "; no answer from " + strings.Join(absent, ", ")
	}
	return s
}

// Elapsed is the time from the first hop to where the frame arrived, each by its own host's clock: it may be negative. What the
// clocks differ by is not in the sum of a way and the way back. It is false of a frame that did not arrive.
func (p *Path) Elapsed() (time.Duration, bool) {
	end := p.end(Hop.Arrives)
	if p.Verdict != Delivered || end == nil {
		return 0, false
	}
	return end.Time.Sub(p.Start), true
}

func (p *Path) end(is func(Hop) bool) *Step {
	for i := range p.Hops {
		if is(p.Hops[i].Hop) {
			return &p.Hops[i]
		}
	}
	return nil
}

func to(s *Step) string {
	switch {
	case s.Stage == StageWireOut:
		return strings.TrimSuffix(" to the wire by "+s.Device, " by ")
	case s.Port != "":
		return " to " + string(s.Port)
	case s.Device != "":
		return " to " + s.Device
	}
	return ""
}

func peerName(s Step) string {
	if s.PeerHost != "" {
		return string(s.PeerHost)
	}
	return s.Peer.String()
}

// leaves reports whether a frame at this stage is about to leave the host for another.
func (s Stage) leaves() bool { return s == StageEncap || s == StageUnderlayOut || s == StageRelay }

// RuleName is how a rule is named in sentences: policy/rule; a default action has no policy, and nothing no name.
func RuleName(policy, rule string) string {
	if policy == "" {
		return rule
	}
	return policy + "/" + rule
}
