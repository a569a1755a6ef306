package datapath_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// mirrorVNI is the VNI of a mirror in these tests.
const mirrorVNI = fabric.VNI(9001)

// mirrors puts a mirror on hosts: copies of what the source sends and receives for the sink.
func (w *world) mirrors(m datapath.Mirror, source, sink *tapGuest) {
	w.tb.Helper()
	if sink.host != source.host {
		m.Peer = sink.host.vtep
	}
	source.port.Mirrors.Sent[0], source.port.Mirrors.Received[0] = mirrorVNI, mirrorVNI
	source.host.apply(datapath.Change{Put: datapath.State{
		Mirrors: map[fabric.VNI]datapath.Mirror{mirrorVNI: m}, Ports: map[string]datapath.Port{source.device: source.port},
	}})
	sink.host.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {Device: sink.device}}}})
}

// mirrored are the counters of the mirror on a host.
func (h *host) mirrored() datapath.MirrorCount {
	h.tb.Helper()
	all, err := h.Mirrors(context.Background())
	if err != nil {
		h.tb.Fatal(err)
	}
	return all[mirrorVNI]
}

func TestAMirrorCopiesBothDirectionsToAnotherPort(t *testing.T) {
	for claim, hosts := range map[string]int{"on the same host": 1, "on another host": 2} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, hosts, false)
			w.load()
			a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[hosts-1], 3, 0)
			w.mirrors(datapath.Mirror{}, a, sink)
			there, back := udp4(1, 2, 1000, 2000, "there"), udp4(2, 1, 2000, 1000, "back")
			a.send(there)
			b.gets(t, there)
			sink.gets(t, there)
			b.send(back)
			a.gets(t, back)
			sink.gets(t, back)
			for _, g := range []*tapGuest{a, b, sink} {
				g.silent()
			}
			if got := a.host.mirrored(); got.Seen != 2 || got.Copied != 2 || got.Lost != 0 {
				t.Errorf("the source's host counts %+v", got)
			}
			if got := sink.host.mirrored(); got.Given != 2 || got.GivenBytes != uint64(len(there)+len(back)) || got.Lost != 0 {
				t.Errorf("the sink's host counts %+v", got)
			}
		})
	}
}

// udp4 is a UDP packet from guest src to guest dst.
func udp4(src, dst int, sport, dport uint16, text string) []byte {
	payload := udp(sport, dport, []byte(text))
	return ip{protocol: protoUDP}.frame(src, dst, false, payload)
}

func TestAMirrorEndsByTheKernelsClock(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[0], 3, 0)
	frame := udp4(1, 2, 1000, 2000, "text")
	w.mirrors(datapath.Mirror{Deadline: time.Now().Add(time.Hour).UnixNano()}, a, sink)
	a.send(frame)
	b.gets(t, frame)
	sink.gets(t, frame)
	w.mirrors(datapath.Mirror{Deadline: time.Now().UnixNano()}, a, sink)
	a.send(frame)
	b.gets(t, frame)
	sink.silent()
	// It ends without anybody: the loader is gone before the time is over.
	w.mirrors(datapath.Mirror{Deadline: time.Now().Add(time.Second).UnixNano()}, a, sink)
	w.hosts[0].Close()
	eventually(t, "the mirror has ended", func() bool {
		a.send(frame)
		b.gets(t, frame)
		return sink.pending() == nil
	})
	w.hosts[0].load()
}

func TestOnlyWhatPassesIsCopiedAndCopiesAreNot(t *testing.T) {
	const second = mirrorVNI + 1
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, sink, last := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0), w.tap(h, 4, 0)
	w.mirrors(datapath.Mirror{}, a, sink)
	sink.port.Mirrors = datapath.Mirrors{Sent: [8]fabric.VNI{second}, Received: [8]fabric.VNI{second}}
	h.apply(datapath.Change{Put: datapath.State{
		Mirrors: map[fabric.VNI]datapath.Mirror{second: {}}, Ports: map[string]datapath.Port{sink.device: sink.port},
		Sinks: map[fabric.VNI]datapath.Sink{second: {Device: last.device}},
	}})
	a.expectDrop(tracing.ReasonGuardSrcMAC, ether(mac(2), mac(9), 0x88b5, make([]byte, 60)))
	sink.silent()
	frame := udp4(1, 2, 1000, 2000, "text")
	a.send(frame)
	b.gets(t, frame)
	sink.gets(t, frame)
	last.silent()
	own := udp4(3, 2, 1000, 2000, "own")
	sink.send(own)
	b.gets(t, own)
	last.gets(t, own)
	sink.silent()
}

func TestGroupFramesAreCopiedAtEachPort(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.bareTap(w.hosts[1], 3, 0)
	sink.port.VNI = 99 // elsewhere: it is not on their switch
	sink.host.apply(datapath.Change{Put: datapath.State{
		Switches: map[fabric.VNI]datapath.Switch{99: {MTU: 1500}}, Ports: map[string]datapath.Port{sink.device: sink.port}}})
	w.mirrors(datapath.Mirror{}, a, sink)
	out := ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4))
	in := ether(broadcast, mac(2), typeRARP, arp(3, mac(2), any4, mac(2), any4))
	a.send(out)
	b.gets(t, out)
	sink.gets(t, out)
	b.send(in)
	a.gets(t, in)
	sink.gets(t, in)
	sink.silent()
}

func TestTheTagOfATrunkIsOnItsCopies(t *testing.T) {
	e := newEstate(t, fabric.SwitchVLAN{ID: 10})
	trunk, access, sink := e.port(0, "t", "trunk:allowed=10"), e.port(0, "a", "10"), e.port(1, "s", "untagged")
	e.snap.Mirrors = map[string]*fabric.Mirror{"m": {Metadata: fabric.Metadata{Name: "m"}, Spec: fabric.MirrorSpec{
		Sources: []fabric.MirrorSource{{Port: "t"}}, Direction: fabric.MirrorBoth, Sink: fabric.MirrorSink{Port: "s"}, VNI: mirrorVNI}}}
	e.plan()
	there, back := udp4(1, 2, 1, 2, "there"), udp4(2, 1, 2, 1, "back")
	trunk.send(tagged(there, 10))
	access.gets(t, there)
	sink.gets(t, tagged(there, 10))
	access.send(back)
	trunk.gets(t, tagged(back, 10))
	sink.gets(t, tagged(back, 10))
	e.quiet()
	delete(e.snap.Mirrors, "m")
	e.plan()
	trunk.send(tagged(there, 10))
	access.gets(t, there)
	e.quiet()
}

func TestCopiesAreSeenOnADeviceAndNeverReachTheHost(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.apply(datapath.Change{Put: datapath.State{
		Mirrors: map[fabric.VNI]datapath.Mirror{mirrorVNI: {}}, Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {Device: "wm-test", Listen: true}}}})
	a.port.Mirrors.Sent[0] = mirrorVNI
	h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{a.device: a.port}}})
	listener := (&lan{w: w}).listen("wm-test", h.ns)
	// The host's stack would take this one wherever it came in.
	frame := ether(broadcast, mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(1), netip.MustParseAddr("255.255.255.255"), udp(1000, 2000, data)))
	before := w.received(h)
	const frames = 20
	for range frames {
		a.send(frame)
		b.gets(t, frame)
	}
	seen := 0
	eventually(t, "all copies are seen", func() bool { seen += listener.count(frame); return seen >= frames })
	if got := h.mirrored(); seen != frames || got.Given != frames || got.GivenBytes != frames*uint64(len(frame)) {
		t.Errorf("%d of %d copies were seen; %+v", seen, frames, got)
	}
	if n := w.received(h) - before; n != 0 {
		t.Errorf("the host's stack has got %d of them", n)
	}
	h.apply(datapath.Change{Delete: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {}}}})
	w.in(h.ns, func() error {
		if _, err := nic.Find("wm-test"); err == nil {
			t.Error("the device is still there")
		}
		return nil
	})
}

// received is how many IPv4 packets the host's stack has got.
func (w *world) received(h *host) (n uint64) {
	w.tb.Helper()
	w.in(h.ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		for line := range strings.Lines(string(b)) {
			var forwarding, ttl int
			if got, _ := fmt.Sscanf(line, "Ip: %d %d %d", &forwarding, &ttl, &n); got == 3 {
				return err
			}
		}
		return fmt.Errorf("no counters of IP: %w", err)
	})
	return n
}

func TestCopiesAreTakenFromHostsOfTheFabricForASinkThatIsHere(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[1], 3, 0)
	w.mirrors(datapath.Mirror{}, a, sink)
	frame := udp4(1, 2, 1000, 2000, "text")
	dropped := func(reason tracing.Reason) (n uint64) {
		_, host := sink.host.counters()
		return host.Tunnel.DropsIn[reason] + host.Underlay.DropsIn[reason]
	}
	sink.host.apply(datapath.Change{Delete: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {}}}})
	a.send(frame)
	b.gets(t, frame)
	eventually(t, "the copy is dropped where no sink is", func() bool { return dropped(tracing.ReasonVNIUnknown) == 1 })
	sink.host.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {Device: sink.device}}},
		Delete: datapath.State{Peers: map[netip.Addr]datapath.Peer{a.host.vtep: {}}}})
	a.send(frame)
	b.gets(t, frame)
	eventually(t, "a stranger's copy is dropped", func() bool { return dropped(tracing.ReasonVTEPUnknown) == 1 })
	sink.silent()
	// A port that is closed takes no copy, either.
	sink.host.apply(datapath.Change{Put: datapath.State{Peers: map[netip.Addr]datapath.Peer{a.host.vtep: {MTU: 1600}}}})
	sink.port.Gate = datapath.Closed
	sink.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{sink.device: sink.port}}})
	a.send(frame)
	b.gets(t, frame)
	eventually(t, "the closed port's copy is counted", func() bool {
		ports, _ := sink.host.counters()
		return ports[sink.port.Name].DropsOut[tracing.ReasonPortDisabled] == 1
	})
	if got := sink.host.mirrored(); got.Lost != 1 || got.Given != 0 {
		t.Errorf("the sink's host counts %+v", got)
	}
}

func TestMirrorsGoOnWhenTheLoaderChanges(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, sink := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	w.mirrors(clause(datapath.Clause{HasProtocol: true, Protocol: protoUDP, Local: netip.PrefixFrom(address4(1), 31), RemotePorts: fabric.PortRange{First: 1, Last: 65535}}), a, sink)
	h.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI + 1: {Device: "wm-other", Listen: true}}}})
	read := func() datapath.State {
		s, err := h.Read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := read()
	h.Close()
	frame := udp4(1, 2, 1000, 2000, "text")
	a.send(frame)
	b.gets(t, frame)
	sink.gets(t, frame)
	h.load()
	after := read()
	if before.Mirrors[mirrorVNI] != after.Mirrors[mirrorVNI] || before.Ports[a.device] != after.Ports[a.device] || len(after.Mirrors) != 1 ||
		after.Ports[a.device].Mirrors.Sent[0] != mirrorVNI || len(after.Sinks) != 2 || after.Sinks[mirrorVNI+1] != before.Sinks[mirrorVNI+1] {
		t.Errorf("before %+v %+v, after %+v %+v", before.Mirrors, before.Sinks, after.Mirrors, after.Sinks)
	}
	w.verify(h)
	a.send(frame)
	b.gets(t, frame)
	sink.gets(t, frame)
	if got := h.mirrored(); got.Copied != 2 {
		t.Errorf("it counts %+v", got)
	}
	// A mirror that is changed is changed at once, and leaves no session behind.
	for range 300 {
		w.mirrors(clause(datapath.Clause{HasProtocol: true, Protocol: protoTCP}), a, sink)
		w.mirrors(clause(datapath.Clause{HasProtocol: true, Protocol: protoUDP}), a, sink)
	}
	a.send(frame)
	b.gets(t, frame)
	sink.gets(t, frame)
}

func TestWhatMirrorsNeedIsPutBack(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, sink := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	w.mirrors(datapath.Mirror{}, a, sink)
	h.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI + 1: {Device: "wm-other", Listen: true}}}})
	frame := udp4(1, 2, 1000, 2000, "text")
	passes := func(copied bool) {
		t.Helper()
		a.send(frame)
		b.gets(t, frame)
		if copied {
			sink.gets(t, frame)
		}
		sink.silent()
	}
	passes(true)
	// Nobody may remove the device by which copies leave without being noticed; the guests notice nothing.
	w.in(h.ns, func() error { return nic.Delete(datapath.MirrorDevice) })
	passes(false)
	w.verify(h)
	s, err := h.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Mirrors) != 0 || s.Ports[a.device].Mirrors != (datapath.Mirrors{}) {
		t.Errorf("it reads %+v, %+v: nothing would put it right", s.Mirrors, s.Ports[a.device].Mirrors)
	}
	w.mirrors(datapath.Mirror{}, a, sink)
	passes(true)
	w.in(h.ns, func() error { return nic.Delete("wm-other") })
	w.verify(h)
	if s, err = h.Read(context.Background()); err != nil || len(s.Sinks) != 1 {
		t.Errorf("the sinks are %+v: %v", s.Sinks, err)
	}
	h.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI + 1: {Device: "wm-other", Listen: true}}}})
	// A port that goes takes its copies along: who comes to its place gets none.
	h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{sink.device: {}}}})
	if s, err = h.Read(context.Background()); err != nil || len(s.Sinks) != 1 {
		t.Errorf("the sinks are %+v: %v", s.Sinks, err)
	}
	passes(false)
	h.Close()
	w.in(h.ns, func() error {
		if err := datapath.Uninstall(h.pinDir); err != nil {
			return err
		}
		for _, device := range []string{datapath.MirrorDevice, "wm-other"} {
			if _, err := nic.Find(device); err == nil {
				t.Errorf("%s is still there", device)
			}
		}
		return nil
	})
	h.load()
}
