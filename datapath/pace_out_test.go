package datapath_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// waits has what a guest sends wait, with room for all of it.
var waits = datapath.Limits{Out: datapath.Limit{Rate: 1e6, Burst: 8e6}}

// hasQueued fails unless so many frames have gone by the queue of what guests send.
func (h *host) hasQueued(tb testing.TB, frames int) {
	tb.Helper()
	if now := h.classes(tb); !strings.Contains(now, fmt.Sprintf(" bytes %d pkt ", frames)) {
		tb.Errorf("want %d frames to have gone by the queue:\n%s", frames, now)
	}
}

// TestWhatHasWaitedGoesOnAsItWasSent sends frames with tags by a queue: they get where they would without.
func TestWhatHasWaitedGoesOnAsItWasSent(t *testing.T) {
	x := newTrunked(t)
	x.snap.Ports["router"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Max: 1_000_000}}
	x.plan()
	for i := range x.guests {
		x.router.send(tagged(x.ask(i), trunkTags[i]|5<<13))
		x.guests[i].gets(t, x.ask(i))
	}
	x.router.expectDrop(tracing.ReasonVLANNotAllowed, tagged(x.ask(0), 30))
	x.hosts[0].hasQueued(t, 2)
	x.quiet()
}

// TestTheCoreAnswersWhatHasWaited asks for an address, and sends what is too big: the answers get to the guest's device.
func TestTheCoreAnswersWhatHasWaited(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 2, 0)
	a.limited(waits)
	a.send(ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(2))))
	if got := a.receive(); got == nil || got[21] != 2 || !bytes.Equal(got[6:12], b.port.MAC[:]) {
		t.Errorf("asked for an address, the guest gets % x", got)
	}
	w.hosts[0].apply(datapath.Change{Put: datapath.State{Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1000}}}})
	a.send(ip{protocol: protoUDP, df: true}.frame(1, 2, false, udp(1, 2, make([]byte, 1200))))
	if got := a.receive(); got == nil || got[23] != 1 || got[34] != 3 || got[35] != 4 {
		t.Errorf("told that a packet is too big, the guest gets % x", got)
	}
	w.hosts[0].hasQueued(t, 2)
}

// TestNothingThatWaitsIsLost takes the rate away, and lets the port leave for another host, while frames wait.
func TestNothingThatWaitsIsLost(t *testing.T) {
	for claim, end := range map[string]func(*tapGuest){
		"the rate is taken away": func(g *tapGuest) { g.limited(datapath.Limits{}) },
		"another rate is told":   func(g *tapGuest) { g.limited(datapath.Limits{Out: datapath.Limit{Rate: 1e8, Burst: 8e6}}) },
		"the port leaves":        func(g *tapGuest) { g.gate(datapath.Relay, 2) },
		"the agent is another":   func(g *tapGuest) { g.host.Close(); g.host.load() },
	} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
			a.limited(waits)
			const frames, long = 80, 1400 // the kernel lets 66 kB through at once
			for i := range frames {
				a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, uint16(1024+i), make([]byte, long))))
			}
			ports, _ := w.hosts[0].counters()
			if c := ports[a.port.Name]; c.Waiting == 0 || c.Rx.Frames != frames || int(c.Waiting+c.Local) != frames {
				t.Errorf("of %d frames %d were met, %d wait and %d were delivered", frames, c.Rx.Frames, c.Waiting, c.Local)
			}
			end(a)
			for i := range frames {
				if got := b.receive(); got == nil || got[37] != byte(i) {
					t.Fatalf("frame %d does not come next", i)
				}
			}
			ports, _ = w.hosts[0].counters()
			if c := ports[a.port.Name]; c.Waiting != 0 {
				t.Errorf("all are there, and %d wait", c.Waiting)
			}
		})
	}
}

// TestWhatARateNeedsIsPutBack takes away all that what guests send waits in, one after the other. Frames pass meanwhile, save where the
// way is gone, and the rate is held again after the next look.
func TestWhatARateNeedsIsPutBack(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.limited(datapath.Limits{Out: waits.Out, In: waits.Out})
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	passes := func(when string) {
		t.Helper()
		a.send(frame)
		if b.receive() == nil {
			t.Errorf("nothing passes %s", when)
		}
	}
	passes("by the queue")
	tc := func(args ...string) func() error {
		return func() error { return exec.Command("tc", args...).Run() }
	}
	for _, one := range []struct {
		gone   string
		take   func() error
		passes bool
	}{
		{"the class", tc("class", "del", "dev", datapath.ShaperDevice, "classid", "57f7:3"), true},
		{"the root", tc("qdisc", "del", "dev", datapath.ShaperDevice, "root"), true},
		{"another rate", tc("class", "change", "dev", datapath.ShaperDevice, "classid", "57f7:3", "htb", "rate", "1kbit"), true},
		{"the link", func() error { return nic.SetDown(datapath.ShaperDevice) }, false},
		{"the pair", func() error { return nic.Delete(datapath.ShaperDevice) }, false},
	} {
		w.in(h.ns, one.take)
		if one.passes {
			passes("without " + one.gone)
		}
		w.verify(h)
		passes("after a look at " + one.gone)
		if now := h.classes(t); !strings.Contains(now, "57f7:3 root") || !strings.Contains(now, "rate 1Mbit") {
			t.Errorf("%s was gone; after a look there is %q", one.gone, now)
		}
	}
	if e := h.event(datapath.Repaired); e.Port != a.port.Name || !strings.Contains(e.Message, "queue") {
		t.Errorf("the event says %+v", e)
	}
	w.in(h.ns, tc("qdisc", "del", "dev", a.device, "root"))
	w.verify(h)
	if now := h.queueAt(t, a.device); !strings.HasPrefix(now, "qdisc tbf 57f7:") {
		t.Errorf("after a look there is %q at the guest's device", now)
	}
	state, err := h.Read(context.Background())
	if err != nil || state.Ports[a.device].Limits != a.port.Limits {
		t.Errorf("the limits are %+v: %v", state.Ports[a.device].Limits, err)
	}
}
