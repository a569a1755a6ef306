package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Direction is seen from the VM.
type Direction string

// The directions of a rule.
const (
	In  Direction = "in"  // towards the VM
	Out Direction = "out" // from the VM
)

// Action is what a rule does to a packet that it matches.
type Action string

// The actions of a rule.
const (
	Allow  Action = "allow"
	Deny   Action = "deny"   // dropped in silence
	Reject Action = "reject" // dropped, and the sender is told: TCP by RST, others by ICMP "administratively prohibited"
	Meter  Action = "meter"  // counted; judgement goes on with the next rule (ADR 10)
)

// Rule is one line of a policy. A field that is absent matches everything, a list that is empty matches nothing. What a
// packet meets is decided by the first rule that matches it and is no meter (ADR 10).
type Rule struct {
	// Name is unique in the policy; counters, traces and logs name the rule by it.
	Name string `json:"name"`
	// Weight orders the rules of a policy, highest first: 1 to 65535, unique among the rules of its direction.
	Weight    uint16    `json:"weight"`
	Direction Direction `json:"direction"`
	Action    Action    `json:"action"`
	// Protocol is tcp, udp, sctp, icmp, icmpv6 or a number of 0 to 255; absent means any, other than IP too.
	Protocol string `json:"protocol,omitempty"`
	// Local is the VM's end, Remote the other.
	Local  *End `json:"local,omitempty"`
	Remote *End `json:"remote,omitempty"`
	// ICMP narrows protocol icmp or icmpv6.
	ICMP *ICMPMatch `json:"icmp,omitempty"`
	// TCPFlags narrows protocol tcp; only in a rule that is not stateful.
	TCPFlags *TCPFlags `json:"tcpFlags,omitempty"`
	// EtherType narrows to one type, 0x0600 to 0xffff; 0 means any. ARP is the guards' matter, not a rule's.
	EtherType EtherType `json:"etherType,omitempty"`
	// VLAN narrows to frames of this VLAN of the port's switch, or of this isolation id; 0 means any. On a trunk it is the VLAN of a
	// frame's tag, or the native one; elsewhere that which the port sends on.
	VLAN VLANID `json:"vlan,omitempty"`
	// VNI narrows in the same way, by the VNI of a switch or of one of its VLANs (Hyper-V: isolation id); 0 means any.
	VNI VNI `json:"vni,omitempty"`
	// Stateful makes an allowed packet open a flow, whose packets, replies and ICMP errors pass without another look at the
	// rules until the policy changes or the flow has been idle. Only with action allow.
	Stateful bool `json:"stateful,omitempty"`
	// Idle ends a stateful rule's flow after this time without a packet, 1 s to 24 h; absent means by protocol: TCP 2 h 13 min
	// 20 s, UDP 3 min (30 s until answered), others 30 s.
	Idle Duration `json:"idle,omitzero"`
	// Log writes an event for packets that the rule decides.
	Log *RuleLog `json:"log,omitempty"`
}

// End is one end of a packet: its addresses, ports and MAC; what is given must all match. Prefixes and Groups are
// alternatives of each other: an address in any of them matches.
type End struct {
	Prefixes []netip.Prefix `json:"prefixes,omitzero"`
	Groups   []string       `json:"groups,omitzero"`
	// Ports of protocols tcp, udp and sctp.
	Ports []PortRange `json:"ports,omitzero"`
	MACs  []MAC       `json:"macs,omitzero"`
}

// ICMPMatch is an ICMP type and code, each 0 to 255; absent means any.
type ICMPMatch struct {
	Type *uint8 `json:"type,omitempty"`
	Code *uint8 `json:"code,omitempty"`
}

// TCPFlags lists flags (fin, syn, rst, psh, ack, urg) that must be set, and that must be clear.
type TCPFlags struct {
	Set   []string `json:"set,omitempty"`
	Clear []string `json:"clear,omitempty"`
}

// RuleLog says how many of the deciding packets are written: the first of every Sample; 0 or 1 means each, at most 100 a
// second and port.
type RuleLog struct {
	Sample uint32 `json:"sample,omitempty"`
}

// Bounds of a rule.
const (
	// MaxRuleList is how many prefixes, groups, port ranges or MACs one end of a rule may list; more belong in a group.
	MaxRuleList = 1024
	// MinIdle and MaxIdle bound a rule's idle time.
	MinIdle = Duration(time.Second)
	MaxIdle = Duration(24 * time.Hour)
)

// protocols are the IP protocols that have a name in rules (IANA protocol numbers).
var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}

// ProtocolName is what an IP protocol is called in rules; empty where rules know it by its number alone.
func ProtocolName(n uint8) string {
	for name, number := range protocols {
		if number == n {
			return name
		}
	}
	return ""
}

// tcpFlagNames are the flags in the order of their bits, FIN being the lowest (RFC 9293 section 3.1).
var tcpFlagNames = []string{"fin", "syn", "rst", "psh", "ack", "urg"}

// ParseProtocol reads the name of a protocol that rules know, or a number of 0 to 255; the error wraps ErrInvalid.
func ParseProtocol(s string) (uint8, error) {
	if n, ok := protocols[s]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", unknownProtocol(s), ErrInvalid)
	}
	return uint8(n), nil
}

func unknownProtocol(s string) string {
	text := unknown("protocol", s, sortedKeys(protocols))
	if strings.HasSuffix(text, "?") {
		return text
	}
	return text + ", and numbers of 0 to 255"
}

// ruleCheck finds what is wrong with one rule; its findings name the rule.
type ruleCheck struct {
	*Findings
	rule *Rule
	path string
}

func (c *ruleCheck) add(field, format string, args ...any) {
	c.Findings.add(c.path+field, "rule %s: %s", quote(c.rule.Name), fmt.Sprintf(format, args...))
}

func (c *ruleCheck) all() {
	r := c.rule
	if text := badName(r.Name); text != "" {
		c.Findings.add(c.path+".name", "%s", text)
	}
	if r.Weight == 0 {
		c.add(".weight", "is missing or 0: 1 to 65535, the highest is asked first")
	}
	c.word(".direction", string(r.Direction), string(In), string(Out))
	c.word(".action", string(r.Action), string(Allow), string(Deny), string(Reject), string(Meter))
	number, hasPorts := c.protocol()
	c.end(".local", r.Local, hasPorts)
	c.end(".remote", r.Remote, hasPorts)
	c.icmp(number)
	c.tcpFlags(number)
	c.etherType()
	if r.VNI > MaxVNI {
		c.add(".vni", "%d does not fit: a VNI is 1 to %d", r.VNI, MaxVNI)
	}
	if r.VLAN != 0 && !r.VLAN.valid() {
		c.add(".vlan", "%d %s", r.VLAN, badVLAN)
	}
	c.state()
	if r.Log != nil && r.Action == Meter {
		c.add(".log", "tells of the packets that a rule decides, and a meter decides none: leave it out")
	}
}

// word checks a field that holds one of a few words.
func (c *ruleCheck) word(field, got string, known ...string) {
	switch {
	case got == "":
		c.add(field, "is missing: one of %s", known)
	case !slices.Contains(known, got):
		c.add(field, "%s", unknown(field[1:], got, known))
	}
}

// protocol returns the number, -1 for any, and whether the protocol has ports.
func (c *ruleCheck) protocol() (number int, hasPorts bool) {
	if c.rule.Protocol == "" {
		return -1, false
	}
	n, err := ParseProtocol(c.rule.Protocol)
	if err != nil {
		c.add(".protocol", "%s", unknownProtocol(c.rule.Protocol))
		return -1, true // one finding is enough
	}
	return int(n), n == 6 || n == 17 || n == 132
}

func (c *ruleCheck) end(field string, e *End, hasPorts bool) {
	if e == nil {
		return
	}
	for _, l := range []struct {
		name string
		n    int
	}{{".prefixes", len(e.Prefixes)}, {".groups", len(e.Groups)}, {".ports", len(e.Ports)}, {".macs", len(e.MACs)}} {
		if l.n > MaxRuleList {
			c.add(field+l.name, "%d entries, the most is %d: use a group, or several rules", l.n, MaxRuleList)
			return
		}
	}
	for i, p := range e.Prefixes {
		var f Findings
		checkPrefix(&f, "", p)
		c.take(fmt.Sprintf("%s.prefixes[%d]", field, i), f)
	}
	for i, g := range e.Groups {
		if text := badName(g); text != "" {
			c.add(fmt.Sprintf("%s.groups[%d]", field, i), "%s", text)
		}
	}
	if e.Ports != nil && !hasPorts {
		c.add(field+".ports", "only tcp, udp and sctp have ports: name one of them as protocol, or leave ports out")
	}
	for i, p := range e.Ports {
		if p.First > p.Last {
			c.add(fmt.Sprintf("%s.ports[%d]", field, i), "%d-%d is reversed: write %d-%d", p.First, p.Last, p.Last, p.First)
		}
	}
	for i, m := range e.MACs {
		if m.IsZero() {
			c.add(fmt.Sprintf("%s.macs[%d]", field, i), "is empty: write it as 52:54:00:12:34:56")
		}
	}
}

// take records findings of a shared check as this rule's.
func (c *ruleCheck) take(field string, f Findings) {
	for _, one := range f {
		c.add(field, "%s", one.Message)
	}
}

func (c *ruleCheck) icmp(number int) {
	m := c.rule.ICMP
	switch {
	case m == nil:
	case number != 1 && number != 58:
		c.add(".icmp", "needs protocol icmp or icmpv6")
	case m.Type == nil && m.Code != nil:
		c.add(".icmp.code", "means nothing without a type: give icmp.type too")
	}
}

func (c *ruleCheck) tcpFlags(number int) {
	t := c.rule.TCPFlags
	if t == nil {
		return
	}
	switch {
	case number != 6:
		c.add(".tcpFlags", "needs protocol tcp")
	case c.rule.Stateful:
		c.add(".tcpFlags", "cannot narrow a stateful rule, which follows the connection by itself: remove one of the two")
	case c.rule.Action == Meter:
		c.add(".tcpFlags", "cannot narrow a meter, which counts whole connections (ADR 10): leave it out")
	case len(t.Set) == 0 && len(t.Clear) == 0:
		c.add(".tcpFlags", "names no flag: list some under set or clear, or leave it out")
	}
	for i, name := range t.Set {
		c.flag(fmt.Sprintf(".tcpFlags.set[%d]", i), name)
	}
	for i, name := range t.Clear {
		at := fmt.Sprintf(".tcpFlags.clear[%d]", i)
		c.flag(at, name)
		if slices.Contains(t.Set, name) {
			c.add(at, "%s cannot be set and clear in one packet: remove one", quote(name))
		}
	}
}

func (c *ruleCheck) flag(field, name string) {
	if !slices.Contains(tcpFlagNames, name) {
		c.add(field, "%s", unknown("flag", name, tcpFlagNames))
	}
}

// etherType checks the type, and that it does not contradict what else the rule asks for.
func (c *ruleCheck) etherType() {
	switch e := c.rule.EtherType; {
	case e == 0:
	case e < minEtherType:
		c.add(".etherType", "%s is a length, not an EtherType, which is 0x0600 to 0xffff", e)
	case e == EtherTypeARP:
		c.add(".etherType", "ARP is the guards' matter, no rule judges it (ADR 10): leave the rule out")
	case e != EtherTypeIPv4 && e != EtherTypeIPv6 && c.rule.NeedsIP():
		c.add(".etherType", "%s is not IP, and the rule asks for protocol, addresses or ports of IP: remove one of the two", e)
	case e != EtherTypeIPv4 && e != EtherTypeIPv6 && c.rule.Stateful:
		c.add(".stateful", "only IP has connections, EtherType %s has none: leave stateful out", e)
	}
}

func (c *ruleCheck) state() {
	r := c.rule
	switch {
	case r.Stateful && r.Action != Allow:
		c.add(".stateful", "goes with action allow only: what is not allowed opens no flow")
	case !r.Stateful && r.Idle != 0:
		c.add(".idle", "is the idle time of flows, and only a stateful rule has flows: add stateful: true, or leave it out")
	case r.Idle != 0 && (r.Idle < MinIdle || r.Idle > MaxIdle):
		c.add(".idle", "%s cannot be: an idle time is %s to %s", r.Idle, MinIdle, MaxIdle)
	}
}

// NeedsIP reports whether the rule says anything that only an IP packet can match: protocol, addresses, ports, ICMP or TCP
// flags (ADR 10).
func (r *Rule) NeedsIP() bool {
	if r.Protocol != "" || r.ICMP != nil || r.TCPFlags != nil {
		return true
	}
	for _, e := range []*End{r.Local, r.Remote} {
		if e != nil && (e.Prefixes != nil || e.Groups != nil || e.Ports != nil) {
			return true
		}
	}
	return false
}
