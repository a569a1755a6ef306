package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/fabric"
)

func TestCompareListsWhatOpensAndCloses(t *testing.T) {
	const closedIn = `  - {name: none, weight: 1, direction: in, action: deny}`
	group := "---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: web}\nspec: {ports: {tier: web}}\n"
	for claim, c := range map[string]struct {
		before, after string
		want          []string
	}{
		"nothing changes when names and weights do": {"  - {name: a, weight: 7, direction: in, action: deny}", "  - {name: b, weight: 9, direction: in, action: deny}", nil},
		"a service opens to a port": {closedIn, closedIn + "\n  - {name: web, weight: 9, direction: in, action: allow, protocol: tcp, local: {ports: [443]}, remote: {groups: [web]}}",
			[]string{"far → vm tcp/443: deny → allow p/web"}},
		"a service opens to everywhere": {closedIn, closedIn + "\n  - {name: web, weight: 9, direction: in, action: allow, protocol: tcp, local: {ports: [443]}, stateful: true}",
			[]string{"elsewhere,far → vm tcp/443: deny → allow, stateful p/web"}},
		"a range closes, and its neighbours stay": {"  - {name: a, weight: 2, direction: out, action: allow}", "  - {name: a, weight: 2, direction: out, action: deny, protocol: udp, remote: {ports: [100-200], prefixes: [10.10.0.22/32]}}",
			[]string{"vm → far udp/100-200: allow → deny p/a"}},
		"a prefix closes where no port is": {"  []", "  - {name: a, weight: 2, direction: out, action: reject, protocol: icmp, icmp: {type: 8}, remote: {prefixes: [192.0.2.0/24]}}",
			[]string{"vm → 192.0.2.0/24 icmp type 8: allow → reject p/a"}},
		"a frame that is not IP": {"  []", "  - {name: a, weight: 2, direction: out, action: deny, etherType: 0x88cc}",
			[]string{"vm → elsewhere ethertype 0x88cc: allow → deny p/a", "vm → far ethertype 0x88cc: allow → deny p/a"}},
		"flags": {"  []", "  - {name: a, weight: 2, direction: in, action: deny, protocol: tcp, tcpFlags: {set: [syn], clear: [ack]}, remote: {groups: [web]}}",
			[]string{"far → vm tcp (syn, no ack): allow → deny p/a"}},
		"answers are no longer remembered": {"  - {name: a, weight: 2, direction: in, action: allow, stateful: true, remote: {groups: [web]}, protocol: '47'}", "  - {name: a, weight: 2, direction: in, action: allow, remote: {groups: [web]}, protocol: '47'}",
			[]string{"far → vm protocol 47: allow, stateful → allow p/a"}},
	} {
		t.Run(claim, func(t *testing.T) {
			var got []string
			indent := func(s string) string { return strings.Replace(s, "  []", "    []", 1) }
			changes := Compare(world(t, rules("p", indent(c.before))+group, "p"), world(t, rules("p", indent(c.after))+group, "p"))
			for _, one := range changes.Items {
				got = append(got, fmt.Sprintf("%s → %s %s: %s → %s %s", strings.Join(one.From, ","), strings.Join(one.To, ","), one.Service, one.Before, one.After, one.Rule))
			}
			slices.Sort(got)
			got = slices.Compact(got) // once for each family
			if !slices.Equal(got, c.want) || changes.Left != "" {
				t.Errorf("changes\n  %s\nwant\n  %s\n%s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "), changes.Left)
			}
		})
	}
}

// TestCompareIsExact draws two worlds and packets between their ports, and checks that a packet is decided differently exactly
// when a change lists it.
func TestCompareIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		before, after := drawWorld(rt, t), drawWorld(rt, t)
		for _, s := range []*fabric.Snapshot{before, after} {
			for _, p := range s.Policies {
				p.Spec.Rules = slices.DeleteFunc(p.Spec.Rules, func(r fabric.Rule) bool { return r.TCPFlags != nil })
			}
			s.Ports["vm"].Spec.MAC, s.Ports["far"].Spec.MAC = macVM, macPeer
		}
		changes := Compare(before, after)
		if changes.Left != "" && !strings.HasSuffix(changes.Left, "more") {
			rt.Fatal(changes.Left)
		}
		for range 30 {
			p := drawPacket(rt)
			p.SourceMAC, p.DestinationMAC, p.Fragment = macVM, macPeer, p.Later
			d := fabric.Out
			if p.HasIP() {
				p.Source, p.Destination, p.EtherType = addrVM, addrFar, 0x0800
			}
			if rapid.Bool().Draw(rt, "in") {
				p, d = p.reverse(), fabric.In
			}
			if p.Protocol == protocolTCP && !p.Later {
				p.TCPFlags = FlagSYN
			}
			if p.Later || !p.HasPorts() {
				p.SourcePort, p.DestinationPort = 0, 0
			}
			a, b := Decide(before, "vm", d, p), Decide(after, "vm", d, p)
			differs := a.Action != b.Action || (a.Allowed() && a.Stateful) != (b.Allowed() && b.Stateful)
			listed := false
			for _, c := range changes.Items {
				listed = listed || lists(c, d, p)
			}
			if differs != listed && changes.Left == "" {
				rt.Fatalf("%+v: %s became %s, listed: %v\n%+v", p, text(a), text(b), listed, changes.Items)
			}
		}
	})
}

// lists reports whether a change speaks of a packet between the VM and the far one.
func lists(c Change, d fabric.Direction, p Packet) bool {
	from, to := "vm", "far"
	if d == fabric.In {
		from, to = to, from
	}
	if !slices.Contains(c.From, from) || !slices.Contains(c.To, to) {
		return false
	}
	words := strings.Fields(c.Service)
	name, port, hasPort := strings.Cut(words[0], "/")
	known := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}
	n, ok := known[name]
	switch {
	case c.Service == "frames that are not IP":
		return p.EtherType == 0x88cc
	case name == "ethertype":
		return words[1] == p.EtherType.String()
	case name == "protocol" && !inSpan(words[1], int(p.Protocol)), ok && n != p.Protocol, !p.HasIP():
		return false
	}
	if p.Later && ok {
		return c.Service == name || c.Service == name+" later fragments"
	}
	if strings.HasSuffix(c.Service, name+" later fragments") {
		return false
	}
	if hasPort && !inSpan(port, int(p.DestinationPort)) {
		return false
	}
	for i := 1; i+1 < len(words); i++ {
		switch words[i] {
		case "from":
			if !inSpan(words[i+1], int(p.SourcePort)) {
				return false
			}
		case "type":
			if !inSpan(words[i+1], int(p.ICMPType)) {
				return false
			}
		}
	}
	return true
}

func inSpan(text string, n int) bool {
	var first, last int
	if c, _ := fmt.Sscanf(text, "%d-%d", &first, &last); c == 1 {
		last = first
	}
	return first <= n && n <= last
}
