package datapath_test

import (
	"bytes"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// clause is a filter of one clause.
func clause(c datapath.Clause) datapath.Mirror {
	return datapath.Mirror{Clauses: 1, Filter: [datapath.MaxMirrorClauses]datapath.Clause{c}}
}

func TestAMirrorCopiesWhatItsFilterAsksFor(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[0], 3, 0)
	port := func(first, last uint16) fabric.PortRange { return fabric.PortRange{First: first, Last: last} }
	sent := udp4(1, 2, 1000, 2000, "sent")
	received := udp4(2, 1, 2000, 1000, "received")
	sent6 := ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 2000, data))
	first := ip{protocol: protoUDP, more: true}.frame(1, 2, false, udp(1000, 2000, make([]byte, 16)))
	later := ip{protocol: protoUDP, offset: 3}.frame(1, 2, false, data)
	other := ether(mac(2), mac(1), 0x88b5, make([]byte, 60))
	both := datapath.Mirror{Clauses: 2, Filter: [datapath.MaxMirrorClauses]datapath.Clause{{Family: 6}, {HasProtocol: true, Protocol: protoUDP, RemotePorts: port(2000, 2000)}}}
	for claim, c := range map[string]struct {
		mirror datapath.Mirror
		want   [][]byte
	}{
		"nothing":            {datapath.Mirror{}, [][]byte{sent, received, sent6, first, later, other}},
		"a protocol":         {clause(datapath.Clause{HasProtocol: true, Protocol: protoUDP}), [][]byte{sent, received, sent6, first, later}},
		"another protocol":   {clause(datapath.Clause{HasProtocol: true, Protocol: protoTCP}), nil},
		"a family":           {clause(datapath.Clause{Family: 4}), [][]byte{sent, received, first, later}},
		"the other family":   {clause(datapath.Clause{Family: 6}), [][]byte{sent6}},
		"the guest's port":   {clause(datapath.Clause{LocalPorts: port(1000, 1001)}), [][]byte{sent, received, sent6, first}},
		"the other's port":   {clause(datapath.Clause{RemotePorts: port(1000, 1001)}), nil},
		"an end of a range":  {clause(datapath.Clause{RemotePorts: port(1990, 2000)}), [][]byte{sent, received, sent6, first}},
		"beyond a range":     {clause(datapath.Clause{RemotePorts: port(1990, 1999)}), nil},
		"the guest's prefix": {clause(datapath.Clause{Local: netip.PrefixFrom(address4(1), 32)}), [][]byte{sent, received, first, later}},
		"the other's prefix": {clause(datapath.Clause{Remote: netip.PrefixFrom(address4(1), 32)}), nil},
		"an IPv4 prefix":     {clause(datapath.Clause{Remote: netip.MustParsePrefix("10.77.0.0/30")}), [][]byte{sent, received, first, later}},
		"an IPv6 prefix":     {clause(datapath.Clause{Remote: netip.MustParsePrefix("fd77::/16")}), [][]byte{sent6}},
		"one of two":         {both, [][]byte{sent, received, sent6, first}},
	} {
		t.Run(claim, func(t *testing.T) {
			w.mirrors(c.mirror, a, sink)
			for _, frame := range [][]byte{sent, received, sent6, first, later, other} {
				from, to := a, b
				if bytes.Equal(frame, received) {
					from, to = b, a
				}
				from.send(frame)
				to.gets(t, frame)
				if slices.ContainsFunc(c.want, func(f []byte) bool { return bytes.Equal(f, frame) }) {
					sink.gets(t, frame)
				}
				sink.silent()
			}
		})
	}
}

func TestAMirrorCopiesOneOfSoManyPackets(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[0], 3, 0)
	w.onOneCPU()
	w.mirrors(datapath.Mirror{Sample: 4}, a, sink)
	for i := range 10 {
		frame := udp4(1, 2, 1000, 2000, string(rune('a'+i)))
		a.send(frame)
		b.gets(t, frame)
		if i%4 == 0 {
			sink.gets(t, frame)
		}
		sink.silent()
	}
	if got := a.host.mirrored(); got.Seen != 10 || got.Copied != 3 {
		t.Errorf("it counts %+v", got)
	}
}

func TestAMirrorCutsCopies(t *testing.T) {
	for claim, hosts := range map[string]int{"on the same host": 1, "on another host": 2} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, hosts, false)
			w.load()
			a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, nic.FullOffload), w.tap(w.hosts[hosts-1], 3, nic.FullOffload)
			w.mirrors(datapath.Mirror{Truncate: 64}, a, sink)
			long, short := udp4(1, 2, 1000, 2000, string(make([]byte, 900))), udp4(1, 2, 1000, 2000, "short")
			a.send(long)
			b.gets(t, long)
			sink.gets(t, long[:64])
			a.send(short)
			b.gets(t, short)
			sink.gets(t, short)
			// An aggregate whose checksum is still to be computed keeps its headers, and is one packet of the copy.
			segment := tcp(address4(1), address4(2), 0x10, nil, make([]byte, 8000))
			big := ip{protocol: protoTCP, df: true}.frame(1, 2, false, segment)
			a.sendVnet(vnet{Flags: needsCsum, Type: gsoTCP4, HeaderLen: 54, Size: 1000, CsumStart: 34, CsumAt: 16}, big)
			if h, got := b.receiveVnet(time.Second); len(got) != len(big) || h.Size != 1000 {
				t.Errorf("the guest got %d bytes of %d, in segments of %d", len(got), len(big), h.Size)
			}
			h, got := sink.receiveVnet(time.Second)
			if h.Size != 0 || len(got) != 64 || !bytes.Equal(got[:34], big[:34]) {
				t.Errorf("the sink got %d bytes in segments of %d: % x", len(got), h.Size, got)
			}
			if c := a.host.mirrored(); c.Seen != 10 || c.Copied != 3 || c.Lost != 0 {
				t.Errorf("it counts %+v", c)
			}
		})
	}
}

// onOneCPU keeps the test on one CPU: each counts its own packets.
func (w *world) onOneCPU() {
	w.tb.Helper()
	var all, first unix.CPUSet
	runtime.LockOSThread()
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		w.tb.Fatal(err)
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			first.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			w.tb.Error(err)
		}
		runtime.UnlockOSThread()
	})
}
