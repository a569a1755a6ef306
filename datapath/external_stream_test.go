package datapath_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// echoed is a TCP connection between two namespaces, on which one end echoes what the other sends.
type echoed struct {
	tb       testing.TB
	conn     net.Conn
	from, to nic.Namespace
	before   [2]segments
}

// segments are TCP's counters of a namespace: what it has sent first, and all that it has received, an aggregate as one.
type segments struct{ in, out uint64 }

func segmentsOf(tb testing.TB, ns nic.Namespace) (s segments) {
	tb.Helper()
	err := ns.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		for line := range strings.Lines(string(b)) {
			var a, e, c, d, f int64
			var skip [5]int64
			if n, _ := fmt.Sscanf(line, "Tcp: %d %d %d %d %d %d %d %d %d %d %d", &a, &e, &c, &d, &f, &skip[0], &skip[1], &skip[2], &skip[3], &s.in, &s.out); n == 11 {
				return err
			}
		}
		return fmt.Errorf("no counters of TCP: %w", err)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// startTalk connects from one namespace to an address of the other.
func startTalk(tb testing.TB, from, to nic.Namespace, address netip.Addr) *echoed {
	tb.Helper()
	t := &echoed{tb: tb, from: from, to: to}
	t.before = [2]segments{segmentsOf(tb, from), segmentsOf(tb, to)}
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer listener.Close()
		if c, err := listener.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	if err := from.Do(func() (err error) { t.conn, err = net.Dial("tcp", listener.Addr().String()); return err }); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { t.conn.Close() })
	return t
}

// say sends messages of a size and waits for each echo.
func (t *echoed) say(messages, size int) {
	t.tb.Helper()
	out, in := make([]byte, size), make([]byte, size)
	for n := range messages {
		for i := range out {
			out[i] = byte(i*7 + n)
		}
		failed := make(chan error, 1)
		go func() { _, err := t.conn.Write(out); failed <- err }()
		if _, err := io.ReadFull(t.conn, in); err != nil {
			t.tb.Fatal(err)
		}
		if err := <-failed; err != nil || string(in) != string(out) {
			t.tb.Fatalf("message %d of %d bytes came back changed (%v)", n, size, err)
		}
	}
}

// end closes the connection and returns how many segments were sent and not received, in both directions.
func (t *echoed) end() (lost int64) {
	t.tb.Helper()
	t.conn.Close()
	eventually(t.tb, "all segments have arrived", func() bool {
		a, b := segmentsOf(t.tb, t.from), segmentsOf(t.tb, t.to)
		there := int64(a.out-t.before[0].out) - int64(b.in-t.before[1].in)
		back := int64(b.out-t.before[1].out) - int64(a.in-t.before[0].in)
		lost = there + back
		return there == 0 && back == 0
	})
	return lost
}

func TestTheHostsConnectionLivesThroughItsSwitch(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	guest := w.veth(h, 1)
	fromWire := startTalk(t, l.machine, h.ns, hostAddress(0))
	for range 3 {
		fromWire.say(50, 1000)
		h.adopt(true)
		fromWire.say(50, 1000)
		w.ping(guest.ns, machine4, true)
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		fromWire.say(50, 1000) // nobody looks after the core
		w.ping(guest.ns, hostAddress(0), true)
		h.load()
		h.verifyHere(t)
		fromWire.say(50, 1000)
		h.adopt(true)
		h.apply(datapath.Change{Delete: datapath.State{
			Wires: map[fabric.VNI]datapath.Wire{vni: {}}, Uplinks: map[string]datapath.Uplink{"eth1": {}},
		}})
		fromWire.say(50, 1000)
	}
	if lost := fromWire.end(); lost != 0 {
		t.Fatalf("%d segments of the host were lost", lost)
	}
	if links := w.tcx(h, "eth1"); links != "" {
		t.Fatalf("something is left on the NIC: %s", links)
	}
}

// verifyHere looks after the host once.
func (h *host) verifyHere(tb testing.TB) {
	tb.Helper()
	if err := h.ns.Do(func() error { return h.Verify(context.Background()) }); err != nil {
		tb.Fatal(err)
	}
}

// tcx lists the programs on a device, and whether it is promiscuous.
func (w *world) tcx(h *host, device string) (found string) {
	w.tb.Helper()
	w.in(h.ns, func() error {
		d, err := nic.Find(device)
		if d.Promiscuous {
			found = "it is promiscuous"
		}
		return err
	})
	for _, name := range []string{"ext_in", "ext_out"} {
		if matches, _ := os.ReadDir(h.pinDir + "/links"); strings.Contains(fmt.Sprint(matches), name) {
			found += " " + name
		}
	}
	return found
}

func TestOffloadsOfTheNICMakeNoDifference(t *testing.T) {
	off := func(features ...nic.Feature) func(string) error {
		return func(device string) error {
			want := map[nic.Feature]bool{}
			for _, f := range features {
				want[f] = false
			}
			return nic.SetFeatures(device, want)
		}
	}
	for name, set := range map[string]func(string) error{
		"all on":          off(),
		"no segmentation": nic.ForceSegmentation,
		"no checksums":    off("tx-checksum-ip-generic"),
		"nothing":         off("tx-checksum-ip-generic", "tx-generic-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-scatter-gather", "rx-gro"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			l, h := w.newLAN(), w.hosts[0]
			guest := w.veth(h, 1)
			w.in(h.ns, func() error { return set("eth1") })
			w.in(l.ns, func() error { return set("p0") })
			h.adopt(true)
			for _, pair := range []struct {
				from, to nic.Namespace
				address  netip.Addr
			}{
				{guest.ns, l.machine, machine4}, {l.machine, guest.ns, address4(1)}, {guest.ns, h.ns, hostAddress(0)}, {h.ns, guest.ns, address6(1)},
			} {
				talk := startTalk(t, pair.from, pair.to, pair.address)
				talk.say(20, 500_000)
				talk.conn.Close()
			}
		})
	}
}
