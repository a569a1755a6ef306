package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/fabric"
)

// hyperv evaluates basic ACLs by Hyper-V's own rule, from the words of the entries: of the entries for a packet's direction,
// the longest prefix decides, and the longest prefix among the meters counts. It returns the number of each, 0 for none.
func hyperv(acls []BasicACL, inbound bool, local, remote netip.Addr, localMAC, remoteMAC fabric.MAC) (allow bool, meter int) {
	decided, metered := -1, -1
	allow = true
	for i, a := range acls {
		if a.Direction != "Both" && (a.Direction == "Inbound") != inbound {
			continue
		}
		word, addr, mac := a.Local, local, localMAC
		if word == "" {
			word, addr, mac = a.Remote, remote, remoteMAC
		}
		length := 0
		switch {
		case a.MAC && word != "ANY":
			if strings.ReplaceAll(word, "-", "") != strings.ReplaceAll(mac.String(), ":", "") {
				continue
			}
			length = 128
		case !a.MAC && word == "ANY":
			if !addr.IsValid() {
				continue
			}
		case !a.MAC && strings.Contains(word, "/"):
			p := netip.MustParsePrefix(word)
			if !p.Contains(addr) {
				continue
			}
			if p.Bits() > 0 {
				length = p.Bits() + 128 - p.Addr().BitLen()
			}
		case !a.MAC:
			if netip.MustParseAddr(word) != addr {
				continue
			}
			length = 128
		}
		switch {
		case a.Action == "Meter" && length > metered:
			metered, meter = length, i+1
		case a.Action != "Meter" && (length > decided || length == decided && a.Action == "Deny"):
			decided, allow = length, a.Action == "Allow"
		}
	}
	return allow, meter
}

func TestBasicACLsDecideAsInHyperV(t *testing.T) {
	words := []string{"ANY", "0.0.0.0/0", "10.0.0.0/8", "10.10.0.0/24", "10.10.0.22", "192.0.2.0/24", "::/0", "fd00::/64", "fd00::22"}
	macs := []string{"ANY", "52-54-00-00-00-01", "525400000002"}
	rapid.Check(t, func(rt *rapid.T) {
		var acls []BasicACL
		seen := map[BasicACL]bool{}
		for range rapid.IntRange(0, 8).Draw(rt, "entries") {
			a := BasicACL{Direction: rapid.SampledFrom([]string{"Inbound", "Outbound", "Both"}).Draw(rt, "direction"), Action: rapid.SampledFrom([]string{"Allow", "Deny", "Meter"}).Draw(rt, "action")}
			a.MAC = a.Action != "Meter" && rapid.IntRange(0, 4).Draw(rt, "mac") == 0
			word := rapid.SampledFrom(words).Draw(rt, "address")
			if a.MAC {
				word = rapid.SampledFrom(macs).Draw(rt, "mac address")
			}
			if rapid.Bool().Draw(rt, "local") {
				a.Local = word
			} else {
				a.Remote = word
			}
			if !seen[a] {
				seen[a] = true
				acls = append(acls, a)
			}
		}
		p, err := FromBasicACLs("p", acls)
		if err != nil {
			rt.Fatal(err)
		}
		s := world(t, "", "p")
		s.Policies["p"] = p
		for range 10 {
			k := drawPacket(rt)
			k.Later, k.Fragment = false, false
			if k.isNeighbor() {
				continue
			}
			d := rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(rt, "d")
			local := k
			if d == fabric.In {
				local = k.reverse()
			}
			allow, meter := hyperv(acls, d == fabric.In, local.Source, local.Destination, local.SourceMAC, local.DestinationMAC)
			v := Decide(s, "vm", d, k)
			if v.Allowed() != allow || (v.Meter.Rule == "") != (meter == 0) {
				rt.Fatalf("%+v %s: %s, Hyper-V: %v, meter %d\n%+v", k, d, text(v), allow, meter, acls)
			}
			if meter == 0 {
				continue
			}
			// Which of two equally long meters counts is not told.
			n, err := strconv.Atoi(strings.Split(v.Meter.Rule, "-")[1])
			if err != nil || length(acls[n-1]) != length(acls[meter-1]) {
				rt.Fatalf("metered by entry %d, Hyper-V: %d\n%+v", n, meter, acls)
			}
		}
	})
}

func length(a BasicACL) int {
	word := a.Local + a.Remote
	if word == "ANY" {
		return 0
	}
	if !strings.Contains(word, "/") {
		return 128
	}
	p := netip.MustParsePrefix(word)
	if p.Bits() == 0 {
		return 0
	}
	return p.Bits() + 128 - p.Addr().BitLen()
}

// extended evaluates extended ACLs by Hyper-V's own rule: the highest weight that matches; nothing matches: allow. isolation is what the
// port's network is known by.
func extended(acls []ExtendedACL, inbound bool, p Packet, isolation []int) (allow, stateful bool) {
	best := -1
	allow = true
	in := func(word string, a netip.Addr) bool {
		if word == "" || word == "ANY" || word == "*" {
			return true
		}
		if !strings.Contains(word, "/") {
			return netip.MustParseAddr(word) == a
		}
		return netip.MustParsePrefix(word).Contains(a)
	}
	port := func(word string, n uint16) bool {
		from, to, isRange := strings.Cut(word, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		return err1 != nil || err2 != nil || a <= int(n) && int(n) <= b
	}
	local := p
	if inbound {
		local = p.reverse()
	}
	for _, a := range acls {
		protocol := map[string]int{"TCP": 6, "UDP": 17, "1": 1, "": int(p.Protocol), "ANY": int(p.Protocol)}[a.Protocol]
		if (a.Direction == "Inbound") == inbound && a.Weight > best && protocol == int(p.Protocol) && in(a.LocalIPAddress, local.Source) && in(a.RemoteIPAddress, local.Destination) &&
			port(a.LocalPort, local.SourcePort) && port(a.RemotePort, local.DestinationPort) && (a.IsolationID == 0 || slices.Contains(isolation, a.IsolationID)) {
			best, allow, stateful = a.Weight, a.Action == "Allow", a.Stateful
		}
	}
	return allow, stateful
}

func TestExtendedACLsDecideAsInHyperV(t *testing.T) {
	words := []string{"", "ANY", "*", "10.0.0.0/8", "10.10.0.22", "fd00::/64"}
	rapid.Check(t, func(rt *rapid.T) {
		var acls []ExtendedACL
		for _, w := range rapid.SliceOfNDistinct(rapid.IntRange(0, 20), 0, 8, rapid.ID[int]).Draw(rt, "weights") {
			a := ExtendedACL{Weight: w, Direction: rapid.SampledFrom([]string{"Inbound", "Outbound"}).Draw(rt, "direction"), Action: rapid.SampledFrom([]string{"Allow", "Deny"}).Draw(rt, "action"),
				LocalIPAddress: rapid.SampledFrom(words).Draw(rt, "local"), RemoteIPAddress: rapid.SampledFrom(words).Draw(rt, "remote"),
				Protocol: rapid.SampledFrom([]string{"", "ANY", "TCP", "UDP", "1"}).Draw(rt, "protocol"), IsolationID: rapid.SampledFrom([]int{0, 0, 10001, 5, 10005}).Draw(rt, "isolation"), IdleSessionTimeout: 30}
			if a.Protocol == "TCP" || a.Protocol == "UDP" {
				a.LocalPort, a.RemotePort = rapid.SampledFrom([]string{"", "ANY", "80", "80-443"}).Draw(rt, "lport"), rapid.SampledFrom([]string{"", "53"}).Draw(rt, "rport")
			}
			a.Stateful = a.Action == "Allow" && rapid.Bool().Draw(rt, "stateful")
			acls = append(acls, a)
		}
		p, err := FromExtendedACLs("p", acls)
		if err != nil {
			rt.Fatal(err)
		}
		s := world(t, "", "p")
		s.Policies["p"] = p
		isolation := []int{10001}
		if rapid.Bool().Draw(rt, "VLAN") {
			s.Switches["blue"].Spec.VLANs = []fabric.SwitchVLAN{{ID: 5, VNI: 10005}}
			s.Ports["vm"].Spec.VLAN, isolation = &fabric.VLAN{Access: 5}, []int{5, 10005}
		}
		for range 10 {
			k := drawPacket(rt)
			k.Later, k.Fragment, k.TCPFlags = false, false, FlagSYN
			if k.isNeighbor() || !k.HasIP() || k.isEchoReply() {
				continue
			}
			d := rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(rt, "d")
			allow, stateful := extended(acls, d == fabric.In, k, isolation)
			m, now := NewModel(s), time.Unix(1000, 0)
			if v := m.Judge("vm", d, k, now); v.Allowed() != allow {
				rt.Fatalf("%+v %s: %s, Hyper-V: %v\n%+v", k, d, text(v), allow, acls)
			}
			if _, connects := connectionOf(k); !allow || !stateful || !connects {
				continue
			}
			answer := k.reverse()
			answer.TCPFlags = FlagSYN | FlagACK
			switch { // what a guest answers to an echo request
			case k.HasICMP() && k.Source.Is4():
				answer.ICMPType = 0
			case k.HasICMP():
				answer.ICMPType = 129
			}
			if v := m.Judge("vm", opposite(d), answer, now.Add(29*time.Second)); v.Reason != ByFlow {
				rt.Fatalf("the answer to %+v is %s", k, text(v))
			}
			if v := m.Judge("vm", opposite(d), answer, now.Add(59*time.Second)); v.Reason == ByFlow {
				rt.Fatalf("an answer after 30 s is %s", text(v))
			}
		}
	})
}

func TestACLsThatHyperVRefusesAreRefused(t *testing.T) {
	for claim, err := range map[string]error{
		"a meter by MAC":          second(FromBasicACLs("p", []BasicACL{{Direction: "Both", Action: "Meter", Remote: "525400000001", MAC: true}})),
		"both ends":               second(FromBasicACLs("p", []BasicACL{{Direction: "Both", Action: "Deny", Local: "ANY", Remote: "ANY"}})),
		"no end":                  second(FromBasicACLs("p", []BasicACL{{Direction: "Both", Action: "Deny"}})),
		"no address":              second(FromBasicACLs("p", []BasicACL{{Direction: "Both", Action: "Deny", Local: "somewhere"}})),
		"an extended one of Both": second(FromExtendedACLs("p", []ExtendedACL{{Direction: "Both", Action: "Deny", Weight: 1}})),
		"an extended meter":       second(FromExtendedACLs("p", []ExtendedACL{{Direction: "Inbound", Action: "Meter", Weight: 1}})),
		"a weight twice":          second(FromExtendedACLs("p", []ExtendedACL{{Direction: "Inbound", Action: "Deny", Weight: 1}, {Direction: "Outbound", Action: "Deny", Weight: 1}})),
		"a stateful deny":         second(FromExtendedACLs("p", []ExtendedACL{{Direction: "Inbound", Action: "Deny", Weight: 1, Stateful: true}})),
	} {
		if !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%s: %v", claim, err)
		}
	}
}

func second(_ *fabric.Policy, err error) error { return err }
