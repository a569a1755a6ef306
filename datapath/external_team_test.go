package datapath_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// second gives each host another NIC on the wire, eth2, without an address.
func (l *lan) second() {
	l.w.tb.Helper()
	for i, h := range l.w.hosts {
		port := fmt.Sprintf("q%d", i)
		l.w.in(l.ns, func() error {
			err := nic.CreateVeth(nic.Veth{Name: port, Peer: "eth2", PeerNamespace: h.ns, PeerMAC: mac(220 + i)})
			return firstError(err, nic.SetMaster(port, "lan0"), nic.SetUp(port))
		})
		l.w.in(h.ns, func() error { return firstError(nic.DisableIPv6("eth2"), nic.SetUp("eth2")) })
	}
}

// settle waits until a port of the wire's bridge forwards what the host sends by it.
func (l *lan) settle(port string) {
	l.w.tb.Helper()
	l.w.in(l.ns, func() error {
		eventually(l.w.tb, port+" forwards", func() bool {
			out, err := exec.Command("bridge", "link", "show", "dev", port).Output()
			return err == nil && bytes.Contains(out, []byte("LOWER_UP")) && bytes.Contains(out, []byte("state forwarding"))
		})
		return nil
	})
}

// drain reads the announcements that other guests' way to the wire has changed.
func drain(guests ...*tapGuest) {
	for _, g := range guests {
		for g.pending() != nil {
			continue
		}
	}
}

// team puts the switch on eth1 and eth2 of the host.
func (h *host) team(leader, other string, share datapath.Share, down bool) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{
		Uplinks: map[string]datapath.Uplink{leader: {HostAccess: true, Share: share}, other: {HostAccess: true, Leader: leader, Share: share, Down: down}},
		Wires:   map[fabric.VNI]datapath.Wire{vni: {Device: leader}},
	}})
}

func TestAStandbyTakesOverAndNothingIsHeardTwice(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.second()
	l.quiet()
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	machine := l.listen("eth0", l.machine)
	call, answer := ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)), ether(broadcast, mac(100), typeRARP, arp(3, mac(100), any4, mac(100), any4))
	toGuest := ether(mac(1), mac(100), 0x88b5, make([]byte, 60))
	exchange := func() {
		t.Helper()
		machine.send(toGuest) // the wire floods it to both NICs until it has heard the guest
		if !bytes.Equal(a.receive(), toGuest) {
			t.Fatal("the guest did not get the frame of the wire")
		}
		a.silent()
		a.send(call)
		if !bytes.Equal(b.receive(), call) {
			t.Fatal("the other guest did not get the broadcast")
		}
		machine.send(answer)
		for _, g := range []*tapGuest{a, b} {
			if !bytes.Equal(g.receive(), answer) {
				t.Fatalf("%s did not get the broadcast of the wire", g.port.Name)
			}
			g.silent()
		}
		if n := machine.count(call); n != 1 {
			t.Fatalf("the wire has seen the guest's broadcast %d times, want once", n)
		}
	}
	h.team("eth1", "eth2", datapath.Standby, false)
	exchange()
	w.in(l.ns, func() error { return nic.SetDown("p0") })
	h.team("eth2", "eth1", datapath.Standby, true)
	drain(a, b)
	machine.count(call)
	exchange()
	w.in(l.ns, func() error { return nic.SetUp("p0") })
	l.settle("p0")
	h.team("eth1", "eth2", datapath.Standby, false)
	drain(a, b)
	machine.count(call)
	exchange()
	_, counters := h.counters()
	for _, device := range []string{"eth1", "eth2"} {
		c := counters.Uplinks[device]
		if n := c.DropsIn[tracing.ReasonOwnMACOnWire]; n != 0 {
			t.Errorf("%s: %d frames of guests are taken for a loop", device, n)
		}
	}
	if n := counters.Uplinks["eth2"].DropsIn[tracing.ReasonUplinkSpare]; n == 0 {
		t.Error("eth2 stood by, and dropped nothing of what the wire flooded")
	}
}

func TestStateOfSeveralUplinksReadsBack(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.second()
	w.tap(h, 1, 0)
	for _, share := range []datapath.Share{datapath.Standby, datapath.ByPort, datapath.ByFlow} {
		h.team("eth2", "eth1", share, true)
		got, err := inside{h}.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := (datapath.Uplink{HostAccess: true, Leader: "eth2", Share: share, Down: true}); got.Uplinks["eth1"] != want {
			t.Errorf("eth1 reads back as %+v, want %+v", got.Uplinks["eth1"], want)
		}
		if want := (datapath.Uplink{HostAccess: true, Share: share}); got.Uplinks["eth2"] != want || got.Wires[vni].Device != "eth2" {
			t.Errorf("eth2 reads back as %+v, want %+v", got.Uplinks["eth2"], want)
		}
	}
	if err := (inside{h}).Apply(t.Context(), datapath.Change{Put: datapath.State{Uplinks: map[string]datapath.Uplink{"eth1": {Leader: "eth1"}, "eth2": {Leader: "eth9"}}}}); err == nil {
		t.Error("a NIC is led by itself, or by one that is none")
	}
}

func TestGuestsAreSharedByMAC(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.second()
	l.quiet()
	guests := []*tapGuest{w.tap(h, 1, 0), w.tap(h, 2, 0)}
	h.team("eth1", "eth2", datapath.ByPort, false)
	machine := l.listen("eth0", l.machine)
	ears := map[string]*ear{"p0": l.listen("p0", l.ns), "q0": l.listen("q0", l.ns)}
	heard := map[string]int{}
	for i, g := range guests {
		to := ether(mac(i+1), mac(100), 0x88b5, make([]byte, 60))
		machine.send(to)
		if !bytes.Equal(g.receive(), to) {
			t.Fatalf("%s did not get the frame of the wire", g.port.Name)
		}
		call := ether(broadcast, mac(i+1), typeRARP, arp(3, mac(i+1), any4, mac(i+1), any4))
		g.send(call)
		if !bytes.Equal(guests[1-i].receive(), call) {
			t.Fatal("the other guest did not get the broadcast")
		}
		machine.send(to)
		g.receive()
		for _, g := range guests {
			g.silent()
		}
		for port, e := range ears {
			heard[port] += e.count(call)
		}
	}
	if heard["p0"] != 1 || heard["q0"] != 1 {
		t.Errorf("the wire has heard guests at its ports %v, want one at each", heard)
	}
	_, counters := h.counters()
	for device, c := range counters.Uplinks {
		if n := c.DropsIn[tracing.ReasonOwnMACOnWire]; n != 0 {
			t.Errorf("%s: %d frames of guests are taken for a loop", device, n)
		}
	}
	w.in(l.ns, func() error { return nic.SetDown("q0") })
	h.team("eth1", "eth2", datapath.ByPort, true)
	drain(guests...)
	for i, g := range guests {
		frame := ether(mac(100), mac(i+1), 0x88b5, make([]byte, 60))
		machine.count(frame)
		g.send(frame)
		to := ether(mac(i+1), mac(100), 0x88b6, make([]byte, 60))
		machine.send(to)
		if got := g.receive(); !bytes.Equal(got, to) {
			t.Fatalf("%s: % x came instead of the frame of the wire", g.port.Name, got)
		}
		if n := machine.count(frame); n != 1 {
			t.Errorf("the frame of %s was seen %d times on the wire, want once", g.port.Name, n)
		}
	}
}
