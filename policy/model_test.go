package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// step is one packet of a story and what becomes of it.
type step struct {
	after  time.Duration
	dir    fabric.Direction
	packet Packet
	want   string
}

// tcp is a segment of the connection from the VM's port 1000 to the far port 443, or back.
func tcp(d fabric.Direction, flags uint8, seq, ack, payload uint32) Packet {
	p := out(6, 1000, 443)
	if d == fabric.In {
		p = p.reverse()
	}
	p.TCPFlags, p.Sequence, p.Acknowledgment, p.Payload = flags, seq, ack, payload
	return p
}

const (
	web = `  - {name: web, weight: 9, direction: out, action: allow, protocol: tcp, stateful: true}
  - {name: dns, weight: 8, direction: out, action: allow, protocol: udp, stateful: true}
  - {name: ping, weight: 7, direction: out, action: allow, protocol: icmp, stateful: true}
  - {name: tunnel, weight: 6, direction: out, action: allow, protocol: '47', stateful: true, idle: 10m}
  - {name: none, weight: 1, direction: out, action: deny}
  - {name: none-in, weight: 1, direction: in, action: deny}`
	other = `  - {name: web2, weight: 9, direction: out, action: allow, protocol: tcp, remote: {ports: [443]}, stateful: true}
  - {name: none, weight: 1, direction: out, action: deny}
  - {name: none-in, weight: 1, direction: in, action: deny}`
	closed = `  - {name: none, weight: 1, direction: out, action: deny}
  - {name: none-in, weight: 1, direction: in, action: deny}`
)

const i, o = fabric.In, fabric.Out

func handshake() []step {
	return []step{
		{0, o, tcp(o, FlagSYN, 100, 0, 0), "allow rule p/web"},
		{0, i, tcp(i, FlagSYN|FlagACK, 500, 101, 0), "allow flow p/web"},
		{0, o, tcp(o, FlagACK, 101, 501, 0), "allow flow p/web"},
	}
}

func play(t *testing.T, m *Model, now time.Time, steps ...step) time.Time {
	t.Helper()
	for n, s := range steps {
		now = now.Add(s.after)
		if got := text(m.Judge("vm", s.dir, s.packet, now)); got != s.want {
			t.Fatalf("packet %d: %s, want %s", n+1, got, s.want)
		}
	}
	return now
}

func TestFlowsLiveAsTheADRSays(t *testing.T) {
	ping := change(out(1, 0, 0), func(p *Packet) { p.ICMPType, p.Echo = 8, 7 })
	pong := change(ping.reverse(), func(p *Packet) { p.ICMPType = 0 })
	query, answer := out(17, 1000, 53), in(17, 53, 1000)
	gre := out(47, 0, 0)
	unreachable := func(quote Packet) Packet {
		return change(in(1, 0, 0), func(p *Packet) { p.ICMPType, p.ICMPCode, p.Quote = 3, 1, &quote })
	}
	for claim, steps := range map[string][]step{
		"an answer needs a question":                           {{0, i, tcp(i, FlagSYN|FlagACK, 1, 1, 0), "deny rule p/none-in"}},
		"a connection opens by its SYN":                        handshake(),
		"a packet amid no connection drops":                    {{0, o, tcp(o, FlagACK, 1, 1, 5), "deny ct_no_flow p/web"}},
		"a SYN with FIN opens nothing":                         {{0, o, tcp(o, FlagSYN|FlagFIN, 1, 0, 0), "deny ct_no_flow p/web"}},
		"another port is another connection":                   append(handshake(), step{0, i, in(6, 443, 1001), "deny rule p/none-in"}),
		"a connection ends after 8,000 s":                      append(handshake(), step{7999 * time.Second, o, tcp(o, FlagACK, 101, 501, 0), "allow flow p/web"}, step{8000 * time.Second, i, tcp(i, FlagACK, 501, 101, 0), "deny rule p/none-in"}),
		"one that is not answered ends after 60 s":             {{0, o, tcp(o, FlagSYN, 100, 0, 0), "allow rule p/web"}, {60 * time.Second, i, tcp(i, FlagSYN|FlagACK, 500, 101, 0), "deny rule p/none-in"}},
		"a RST that fits makes it closing":                     append(handshake(), step{0, i, tcp(i, FlagRST, 501, 0, 0), "allow flow p/web"}, step{10 * time.Second, i, tcp(i, FlagACK, 501, 101, 0), "deny rule p/none-in"}),
		"a RST out of the window does not":                     append(handshake(), step{0, i, tcp(i, FlagRST, 502, 0, 0), "allow flow p/web"}, step{0, i, tcp(i, FlagRST, 500, 0, 0), "allow flow p/web"}, step{60 * time.Second, i, tcp(i, FlagACK, 501, 101, 0), "allow flow p/web"}),
		"a refused SYN is closing":                             {{0, o, tcp(o, FlagSYN, 100, 0, 0), "allow rule p/web"}, {0, i, tcp(i, FlagRST|FlagACK, 0, 101, 0), "allow flow p/web"}, {10 * time.Second, i, tcp(i, FlagACK, 1, 101, 0), "deny rule p/none-in"}},
		"a forged refusal is not":                              {{0, o, tcp(o, FlagSYN, 100, 0, 0), "allow rule p/web"}, {0, i, tcp(i, FlagRST|FlagACK, 0, 99, 0), "allow flow p/web"}, {10 * time.Second, i, tcp(i, FlagSYN|FlagACK, 1, 101, 0), "allow flow p/web"}},
		"one FIN leaves it open":                               append(handshake(), step{0, o, tcp(o, FlagFIN|FlagACK, 101, 501, 0), "allow flow p/web"}, step{60 * time.Second, i, tcp(i, FlagACK, 501, 102, 9), "allow flow p/web"}),
		"two FINs close it":                                    append(handshake(), step{0, o, tcp(o, FlagFIN|FlagACK, 101, 501, 0), "allow flow p/web"}, step{0, i, tcp(i, FlagFIN|FlagACK, 501, 102, 0), "allow flow p/web"}, step{9 * time.Second, o, tcp(o, FlagACK, 102, 502, 0), "allow flow p/web"}, step{10 * time.Second, i, tcp(i, FlagACK, 501, 101, 0), "deny rule p/none-in"}),
		"a FIN out of the window counts for nothing":           append(handshake(), step{0, o, tcp(o, FlagFIN|FlagACK, 101, 501, 0), "allow flow p/web"}, step{0, i, tcp(i, FlagFIN|FlagACK, 501+1<<21, 102, 0), "allow flow p/web"}, step{60 * time.Second, o, tcp(o, FlagACK, 102, 502, 0), "allow flow p/web"}),
		"a SYN on a closing connection opens anew":             append(handshake(), step{0, i, tcp(i, FlagRST, 501, 0, 0), "allow flow p/web"}, step{0, o, tcp(o, FlagSYN, 9000, 0, 0), "allow rule p/web"}, step{30 * time.Second, i, tcp(i, FlagSYN|FlagACK, 1, 9001, 0), "allow flow p/web"}),
		"a SYN from the other side on a closing one is judged": append(handshake(), step{0, i, tcp(i, FlagRST, 501, 0, 0), "allow flow p/web"}, step{0, i, tcp(i, FlagSYN, 9000, 0, 0), "deny rule p/none-in"}),
		"a SYN of the opener in an open connection passes":     append(handshake(), step{0, o, tcp(o, FlagSYN, 9000, 0, 0), "allow flow p/web"}),
		"a SYN of the other side in an open one is judged":     append(handshake(), step{0, i, tcp(i, FlagSYN, 9000, 0, 0), "deny rule p/none-in"}),
		"numbers that wrap are numbers":                        {{0, o, tcp(o, FlagSYN, 1<<32-1, 0, 0), "allow rule p/web"}, {0, i, tcp(i, FlagSYN|FlagACK, 1<<32-2, 0, 0), "allow flow p/web"}, {0, o, tcp(o, FlagACK, 0, 1<<32-1, 0), "allow flow p/web"}, {0, i, tcp(i, FlagRST, 1<<32-1, 0, 0), "allow flow p/web"}, {10 * time.Second, o, tcp(o, FlagACK, 0, 0, 0), "deny ct_no_flow p/web"}},
		"UDP lives 30 s until answered":                        {{0, o, query, "allow rule p/dns"}, {30 * time.Second, i, answer, "deny rule p/none-in"}},
		"UDP lives 180 s once answered":                        {{0, o, query, "allow rule p/dns"}, {29 * time.Second, i, answer, "allow flow p/dns"}, {179 * time.Second, i, answer, "allow flow p/dns"}, {180 * time.Second, i, answer, "deny rule p/none-in"}},
		"an echo's reply is its flow's":                        {{0, o, ping, "allow rule p/ping"}, {0, i, pong, "allow flow p/ping"}},
		"a request of the other side is judged":                {{0, o, ping, "allow rule p/ping"}, {0, i, change(pong, func(p *Packet) { p.ICMPType = 8 }), "deny rule p/none-in"}, {0, i, pong, "allow flow p/ping"}},
		"a reply to another echo is not":                       {{0, o, ping, "allow rule p/ping"}, {0, i, change(pong, func(p *Packet) { p.Echo = 8 }), "deny rule p/none-in"}},
		"a reply opens nothing":                                {{0, o, change(ping, func(p *Packet) { p.ICMPType = 0 }), "allow rule p/ping"}, {0, i, pong, "deny rule p/none-in"}},
		"the idle time is the rule's":                          {{0, o, gre, "allow rule p/tunnel"}, {599 * time.Second, i, gre.reverse(), "allow flow p/tunnel"}, {600 * time.Second, i, gre.reverse(), "deny rule p/none-in"}},
		"an error about a flow is related":                     append(handshake(), step{0, i, unreachable(tcp(o, 0, 0, 0, 0)), "allow related p/web"}),
		"an error about nothing is not":                        {{0, i, unreachable(tcp(o, 0, 0, 0, 0)), "deny rule p/none-in"}},
		"an error that quotes the wrong way is not":            append(handshake(), step{0, i, unreachable(tcp(i, 0, 0, 0, 0)), "deny rule p/none-in"}),
		"an error to somebody else is not":                     append(handshake(), step{0, i, change(unreachable(tcp(o, 0, 0, 0, 0)), func(p *Packet) { p.Destination = addrFar }), "deny rule p/none-in"}),
		"an error keeps nothing alive":                         {{0, o, query, "allow rule p/dns"}, {29 * time.Second, i, unreachable(query), "allow related p/dns"}, {time.Second, i, answer, "deny rule p/none-in"}},
		"a group frame opens nothing":                          {{0, o, change(query, func(p *Packet) { p.DestinationMAC[0] = 1 }), "allow rule p/dns"}, {0, i, answer, "deny rule p/none-in"}},
		"a group frame belongs to no flow":                     {{0, o, query, "allow rule p/dns"}, {0, i, change(answer, func(p *Packet) { p.DestinationMAC[0] = 1 }), "deny rule p/none-in"}},
		"a fragment shares its first's verdict": {
			{0, o, query, "allow rule p/dns"},
			{0, i, change(answer, func(p *Packet) { p.Fragment, p.FragmentID = true, 5 }), "allow flow p/dns"},
			{29 * time.Second, i, change(answer, func(p *Packet) { p.Fragment, p.Later, p.FragmentID = true, true, 5 }), "allow fragment p/dns"},
			{0, i, change(answer, func(p *Packet) { p.Fragment, p.Later, p.FragmentID = true, true, 6 }), "deny rule p/none-in"},
			{time.Second, i, change(answer, func(p *Packet) { p.Fragment, p.Later, p.FragmentID = true, true, 5 }), "deny rule p/none-in"}},
	} {
		t.Run(claim, func(t *testing.T) {
			play(t, NewModel(world(t, rules("p", web), "p")), time.Unix(1000, 0), steps...)
			pruned, now := NewModel(world(t, rules("p", web), "p")), time.Unix(1000, 0)
			for _, s := range steps {
				pruned.Prune(now.Add(s.after))
				now = play(t, pruned, now, s)
			}
		})
	}
}

func TestAChangedPolicyJudgesFlowsAgain(t *testing.T) {
	begin := time.Unix(1000, 0)
	m := NewModel(world(t, rules("p", web), "p"))
	now := play(t, m, begin, handshake()...)
	m.Replace(world(t, rules("p", other), "p"))
	// The far side speaks first: still the opener's direction is judged, which the in rules would not allow.
	now = play(t, m, now, step{0, i, tcp(i, FlagACK, 501, 101, 1), "allow flow p/web2"})
	m.Replace(world(t, rules("p", closed), "p"))
	now = play(t, m, now, step{0, i, tcp(i, FlagACK, 502, 101, 1), "deny rule p/none-in"}, step{0, o, tcp(o, FlagACK, 101, 502, 1), "deny rule p/none"})
	m.Replace(world(t, rules("p", web), "p"))
	play(t, m, now, step{0, o, tcp(o, FlagACK, 101, 502, 1), "deny ct_no_flow p/web"})
	if n := len(m.Flows("vm", now)); n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

func TestRulesWithoutFlowsEndAllFlows(t *testing.T) {
	m := NewModel(world(t, rules("p", web), "p"))
	now := play(t, m, time.Unix(1000, 0), handshake()...)
	m.Replace(world(t, rules("p", closed), "p"))
	m.Replace(world(t, rules("p", web), "p"))
	play(t, m, now, step{0, o, tcp(o, FlagACK, 101, 502, 1), "deny ct_no_flow p/web"})
}

func TestAdoptionTakesConnectionsOn(t *testing.T) {
	now := time.Unix(1000, 0)
	for claim, first := range map[string]step{
		"by the opener's packet":              {0, o, tcp(o, FlagACK, 7000, 1, 9), "allow rule p/web"},
		"by the other side's":                 {0, i, tcp(i, FlagACK, 7000, 1, 9), "allow rule p/web"},
		"not by the other side's without ACK": {0, i, tcp(i, FlagPSH, 7000, 0, 9), "deny rule p/none-in"},
		"not by a RST":                        {0, o, tcp(o, FlagRST, 7000, 1, 9), "deny ct_no_flow p/web"},
		"not by the answer to a SYN":          {0, i, tcp(i, FlagSYN|FlagACK, 7000, 1, 9), "deny rule p/none-in"},
	} {
		t.Run(claim, func(t *testing.T) {
			m := NewModel(world(t, rules("p", web), "p"))
			m.Adopt("vm", true)
			play(t, m, now, first)
			flows := m.Flows("vm", now)
			if taken := strings.HasPrefix(first.want, "allow"); taken != (len(flows) == 1) {
				t.Fatalf("flows: %v", flows)
			} else if !taken {
				return
			}
			if f := flows[0]; f.Direction != o || f.SourcePort != 1000 || f.State != FlowOpen {
				t.Errorf("adopted as %+v", f)
			}
			play(t, m, now, step{0, i, tcp(i, FlagSYN, 9000, 0, 0), "deny rule p/none-in"}) // adoption lets nobody in
			play(t, m, now, step{time.Hour, i, tcp(i, FlagACK, 7009, 1, 9), "allow flow p/web"}, step{0, o, tcp(o, FlagACK, 7009, 1, 9), "allow flow p/web"})
		})
	}
}

func TestMetersCountPacketsOfFlowsInBothDirections(t *testing.T) {
	m := NewModel(world(t, rules("p", web+"\n  - {name: up, weight: 100, direction: out, action: meter}\n  - {name: down, weight: 100, direction: in, action: meter, protocol: tcp}"), "p"))
	now := time.Unix(1, 0)
	var got []string
	for _, s := range handshake() {
		got = append(got, fmt.Sprint(m.Judge("vm", s.dir, s.packet, now).Meter))
	}
	if want := "p/up p/down p/up"; strings.Join(got, " ") != want {
		t.Errorf("metered %s, want %s", got, want)
	}
}
