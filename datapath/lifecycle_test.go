package datapath_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/tracing"
)

// detach takes one of the core's programs off a device by hand, as somebody with root could.
func (h *host) detach(tb testing.TB, device, program string) {
	tb.Helper()
	err := h.ns.Do(func() error {
		d, err := nic.Find(device)
		if err != nil {
			return err
		}
		l, err := link.LoadPinnedLink(filepath.Join(h.pinDir, "links", fmt.Sprintf("%d-%s", d.Index, program)), nil)
		if err != nil {
			return err
		}
		defer l.Close()
		return l.Detach()
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func TestAPortWithoutTheCorePassesNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	h.detach(t, a.device, "vp_in")
	before := hostReceived(t, h)
	for range 1000 {
		a.send(frame)
	}
	b.silent()
	if got := a.drops(tracing.ReasonSentinel); got != 1000 {
		t.Fatalf("the sentinel has dropped %d frames, want 1000", got)
	}
	if received := hostReceived(t, h) - before; received != 0 {
		t.Fatalf("%d packets reached the host's own stack", received)
	}
	w.verify(h)
	if e := h.event(datapath.Repaired); e.Port != "g1" || e.Device != a.device || !strings.Contains(e.Message, "vp_in") {
		t.Fatalf("event %+v", e)
	}
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("after Verify the port does not pass")
	}

	h.detach(t, b.device, "vp_out")
	for range 1000 {
		a.send(frame)
	}
	b.silent()
	ports, _ := h.counters()
	if got := ports["g2"].DropsOut[tracing.ReasonSentinel]; got != 1000 {
		t.Fatalf("the sentinel has dropped %d frames to the guest, want 1000", got)
	}
	w.verify(h)
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("after Verify the neighbour's port does not pass")
	}
}

// hostReceived is how many IP packets the host's own stack has received.
func hostReceived(tb testing.TB, h *host) (n int) {
	tb.Helper()
	out := (&station{ns: h.ns}).run(tb, "cat", "/proc/net/snmp")
	lines := strings.Split(out, "\n")
	for i, name := range strings.Fields(lines[0]) {
		if name == "InReceives" {
			fmt.Sscan(strings.Fields(lines[1])[i], &n)
			return n
		}
	}
	tb.Fatalf("no InReceives in %s", out)
	return 0
}

func TestTheHostItselfMayNotSendToAGuest(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	frame := ether(mac(1), mac(9), typeIPv4, ip{protocol: protoUDP}.packet(address4(9), address4(1), udp(1, 2, data)))
	for _, mark := range []int{0, 1, 0x1003, 0x7fff003} {
		err := h.ns.Do(func() error { return sendFrom(a.device, mark, frame) })
		if !errors.Is(err, unix.ENOBUFS) { // what a sender sees of a program that drops
			t.Fatalf("with mark %#x: %v", mark, err)
		}
	}
	a.silent()
	ports, _ := h.counters()
	if got := ports["g1"].DropsOut[tracing.ReasonUnmarked]; got != 4 {
		t.Fatalf("%d frames dropped as unmarked, want 4", got)
	}
}

// sendFrom sends a frame out of a device of the calling thread's namespace.
func sendFrom(device string, mark int, frame []byte) error {
	d, err := nic.Find(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		return err
	}
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: d.Index})
}

func TestADeviceWithoutAPortPassesNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	ports, err := ebpf.LoadPinnedMap(filepath.Join(h.pinDir, "maps", "ports_v1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ports.Close()
	w.in(h.ns, func() error {
		d, err := nic.Find(a.device)
		if err != nil {
			return err
		}
		return ports.Delete(uint32(d.Index))
	})
	a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)))
	b.silent()
	if _, c := h.counters(); c.Nowhere.DropsIn[tracing.ReasonPortUnknown] != 1 {
		t.Fatalf("counted %+v", c.Nowhere)
	}
}

func TestADeviceThatVanishesTakesItsPortWithIt(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	w.tap(h, 2, 0)
	a.file.Close()
	eventually(t, "the tap is gone", func() bool {
		err := h.ns.Do(func() error { _, err := nic.Find(a.device); return err })
		return err != nil
	})
	w.verify(h)
	if e := h.event(datapath.DeviceGone); e.Port != "g1" || e.Device != a.device {
		t.Fatalf("event %+v", e)
	}
	s, err := inside{h}.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Ports) != 1 || len(s.FDB) != 1 {
		t.Fatalf("left behind: %+v, %+v", s.Ports, s.FDB)
	}
	if links := pinned(t, h, "links"); len(links) != 4+4 {
		t.Fatalf("left behind: %v", links)
	}
	again := w.tap(h, 1, 0)
	again.send(ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), mac(0), address4(2))))
	if again.receive() == nil {
		t.Fatal("the device made again does not work")
	}
}

func TestAnIndexThatIsGivenAgainGetsNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.veth(h, 2)
	other := w.namespace("ot")
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	var index int
	w.in(h.ns, func() error {
		d, err := nic.Find(b.device)
		index = d.Index
		return firstError(err, nic.Delete(b.device))
	})
	refused := func() uint64 {
		ports, _ := h.counters()
		return ports["g2"].DropsOut[tracing.ReasonDeviceGone]
	}
	eventually(t, "frames for it are refused", func() bool { a.send(frame); return refused() > 0 })
	(&station{ns: h.ns}).run(t, "ip", "link", "add", "foreign", "index", fmt.Sprint(index), "up", "type", "veth", "peer", "name", "eth0", "netns", other.Name)
	w.in(other, func() error { return nic.SetUp("eth0") })
	before := refused()
	a.send(frame)
	if refused() != before+1 {
		t.Fatal("a frame for the guest went elsewhere")
	}
	w.verify(h)
}

func TestADeviceThatMovesAwayTakesNothingAlong(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.veth(h, 1), w.tap(h, 2, 0)
	other := w.namespace("ot")
	closed := func() bool { return h.gateOf(t, a.device) == datapath.Closed }
	(&station{ns: h.ns}).run(t, "ip", "link", "set", a.device, "netns", other.Name)
	eventually(t, "its port is closed", closed)
	w.in(other, func() error { return nic.SetUp(a.device) })
	before, frame := a.drops(tracing.ReasonPortDisabled), ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	w.in(a.ns, func() error { return sendFrom("eth0", 0, frame) })
	eventually(t, "what its guest sends is dropped", func() bool { return a.drops(tracing.ReasonPortDisabled) > before })
	for got := b.pending(); got != nil; got = b.pending() { // its kernel may have spoken before, for IPv6
		if bytes.Equal(got, frame) {
			t.Fatal("what its guest sends arrives")
		}
	}
	w.verify(h)
	if s, err := (inside{h}).Read(t.Context()); err != nil || len(s.Ports) != 1 {
		t.Fatalf("left behind: %+v, %v", s.Ports, err)
	}
}

// pinned lists what is pinned of one kind.
func pinned(tb testing.TB, h *host, kind string) []string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(h.pinDir, kind))
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestNamesThatWereRemovedComeBack(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	w.tap(h, 1, 0)
	kinds := []string{"links", "progs", "maps"}
	before := map[string][]string{}
	for _, kind := range kinds {
		before[kind] = pinned(t, h, kind)
		if err := os.RemoveAll(filepath.Join(h.pinDir, kind)); err != nil {
			t.Fatal(err)
		}
	}
	w.verify(h)
	for _, kind := range kinds {
		if now := pinned(t, h, kind); strings.Join(now, " ") != strings.Join(before[kind], " ") {
			t.Errorf("%s: %v, want %v", kind, now, before[kind])
		}
	}
}

func TestAProgramAheadOfTheCoreIsReportedOnce(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT", Instructions: passThrough})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	w.in(h.ns, func() error {
		d, err := nic.Find(a.device)
		if err != nil {
			return err
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: d.Index, Program: foreign, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	w.verify(h)
	w.verify(h)
	if e := h.event(datapath.ForeignProgram); e.Device != a.device {
		t.Fatalf("event %+v", e)
	}
	if n := len(h.Events()); n != 0 {
		t.Fatalf("%d more events", n)
	}
}

func TestTheTunnelDeviceComesBack(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 2, 0)
	w.in(w.hosts[0].ns, func() error { return nic.Delete(datapath.TunnelDevice) })
	w.verify(w.hosts[0])
	frame := ether(mac(2), mac(1), typeARP, arp(2, mac(1), address4(1), mac(2), address4(2)))
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("ARP does not get out")
	}
	b.send(ether(mac(1), mac(2), typeARP, arp(2, mac(2), address4(2), mac(1), address4(1))))
	if a.receive() == nil {
		t.Fatal("ARP does not get in")
	}
}

func TestOnlyOneProcessHoldsTheCore(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	err := h.ns.Do(func() error {
		_, err := datapath.Load(context.Background(), datapath.Options{PinDir: h.pinDir, Underlay: "eth0", VTEP: h.vtep})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d holds it", os.Getpid())) {
		t.Fatalf("the error does not name the holder: %v", err)
	}
	if err := datapath.Uninstall(h.pinDir); err == nil {
		t.Fatal("the core was removed under its holder")
	}
}

func TestUninstallLeavesNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	w.in(h.ns, func() error { return datapath.Uninstall(h.pinDir) })
	h.Datapath = nil
	if _, err := os.Stat(h.pinDir); !os.IsNotExist(err) {
		t.Fatalf("%s is still there: %v", h.pinDir, err)
	}
	w.in(h.ns, func() error {
		devices, err := nic.Devices()
		for _, d := range devices {
			if d.Name == datapath.TunnelDevice || strings.HasPrefix(d.Name, "weftpr") || d.Name == a.device && d.Up {
				t.Errorf("%+v is still there", d)
			}
			for _, direction := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				q, err := link.QueryPrograms(link.QueryOptions{Target: d.Index, Attach: direction})
				if err == nil && len(q.Programs) != 0 {
					t.Errorf("%s still has %d programs", d.Name, len(q.Programs))
				}
			}
		}
		return err
	})
}

func TestAbilities(t *testing.T) {
	start := time.Now()
	for _, a := range datapath.Probe(t.Context()) {
		if a.Required && !a.OK || !a.OK && (a.Reason == "" || a.Remedy == "") {
			t.Errorf("%+v", a)
		}
	}
	t.Log(time.Since(start))
}
