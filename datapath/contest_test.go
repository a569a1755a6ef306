package datapath_test

import (
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/tracing"
)

// fightOver takes a program off a device until Verify leaves it off, and returns how many times it came back.
func (w *world) fightOver(h *host, device, program string) (repaired int) {
	w.tb.Helper()
	for repaired < 10 {
		h.detach(w.tb, device, program)
		w.verify(h)
		for _, c := range h.Contests() {
			if c.Device == device && c.Program == program && !c.Until.IsZero() {
				return repaired
			}
		}
		if e := h.event(datapath.Repaired); e.Device != device || !strings.Contains(e.Message, program) {
			w.tb.Fatalf("event %+v", e)
		}
		repaired++
	}
	w.tb.Fatalf("%s on %s is put back for ever", program, device)
	return 0
}

func isUp(tb testing.TB, h *host, device string) (up bool) {
	tb.Helper()
	if err := h.ns.Do(func() (err error) { up, err = nic.IsUp(device); return err }); err != nil {
		tb.Fatal(err)
	}
	return up
}

func TestAProgramThatSomebodyKeepsTakingAwayIsLeftOffAndThePortStaysClosed(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	received := hostReceived(t, h)
	if n := w.fightOver(h, a.device, "vp_in"); n != 3 {
		t.Fatalf("it was put back %d times, want 3", n)
	}
	e := h.event(datapath.Contested)
	if e.Port != "g1" || e.Device != a.device || !strings.Contains(e.Message, "vp_in off tap1") || !strings.Contains(e.Message, "bpftool net show dev tap1") {
		t.Fatalf("event %+v", e)
	}
	for range 100 {
		w.verify(h)
		a.send(frame)
	}
	b.silent()
	if got := a.drops(tracing.ReasonSentinel); got != 100 {
		t.Fatalf("the sentinel has dropped %d frames, want 100", got)
	}

	if n := w.fightOver(h, a.device, "sentinel_in"); n != 3 {
		t.Fatalf("the sentinel was put back %d times, want 3", n)
	}
	if e := h.event(datapath.Contested); !strings.Contains(e.Message, "sentinel_in") || !strings.Contains(e.Message, "nothing passes") {
		t.Fatalf("event %+v", e)
	}
	if isUp(t, h, a.device) {
		t.Fatal("with neither core nor sentinel the device is a door into the host")
	}
	a.gate(datapath.Open, 1)
	w.in(h.ns, func() error { return nic.SetUp(b.device) })
	w.verify(h)
	if isUp(t, h, a.device) {
		t.Fatal("a change of the port has raised a device without the core")
	}
	if got := hostReceived(t, h) - received; got != 0 {
		t.Fatalf("%d packets reached the host's own stack", got)
	}
	if all := h.Contests(); len(all) != 2 || all[0].Program != "sentinel_in" || all[1].Program != "vp_in" || all[1].Port != "g1" {
		t.Fatalf("contests %+v", all)
	}

	h.EndTruces()
	w.verify(h)
	if !isUp(t, h, a.device) {
		t.Fatal("the device is still down")
	}
	for _, c := range h.Contests() {
		if !c.Until.IsZero() {
			t.Fatalf("still off: %+v", c)
		}
	}
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("after the truce the port does not pass")
	}
	h.detach(t, a.device, "vp_in")
	w.verify(h)
	if e := h.event(datapath.Contested); !strings.Contains(e.Message, "vp_in") {
		t.Fatalf("event %+v", e)
	}
}

func TestTheTunnelDeviceWithoutProgramsIsLowered(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	w.fightOver(h, datapath.TunnelDevice, "vx_in")
	if !isUp(t, h, datapath.TunnelDevice) {
		t.Fatal("the sentinel is there: the device need not be lowered")
	}
	w.fightOver(h, datapath.TunnelDevice, "sentinel_in")
	if isUp(t, h, datapath.TunnelDevice) {
		t.Fatal("the tunnel device is up with neither core nor sentinel")
	}
	w.fightOver(h, "eth0", "ul_in")
	if !isUp(t, h, "eth0") {
		t.Fatal("the host's own NIC was lowered")
	}
	for _, c := range h.Contests() {
		if c.Shut != (c.Program != "ul_in") {
			t.Errorf("contest %+v", c)
		}
	}
	h.EndTruces()
	w.verify(h)
	if !isUp(t, h, datapath.TunnelDevice) {
		t.Fatal("the tunnel device is still down")
	}
}
