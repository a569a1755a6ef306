package datapath_test

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
)

// What a tcx program returns (linux/bpf.h, enum tcx_action_base).
const (
	tcxNext     = 0xffffffff
	tcxRedirect = 7
)

// skbContext is struct __sk_buff, as far as a test run may set it (net/bpf/test_run.c).
type skbContext struct {
	_       [2]uint32
	Mark    uint32
	_       [7]uint32
	Ifindex uint32
	_       uint32
	Control [5]uint32
	_       [24]uint32
	GsoSegs uint32
	_       [2]uint32
	GsoSize uint32
	_       [3]uint32
}

// testRun runs one of the pinned programs on a frame met at the device, and returns the verdict and the frame it leaves.
func (h *host) testRun(tb testing.TB, program, device string, frame []byte, gsoSize uint32) (verdict uint32, out []byte) {
	tb.Helper()
	err := h.ns.Do(func() error {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(h.pinDir, "progs", program), nil)
		if err != nil {
			return err
		}
		defer p.Close()
		d, err := nic.Find(device)
		if err != nil {
			return err
		}
		in := skbContext{Ifindex: uint32(d.Index), GsoSize: gsoSize}
		options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: in}
		verdict, err = p.Run(&options)
		out = options.DataOut
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return verdict, out
}

// TestGoldenVectors compares what the programs make of a frame with headers written by hand: IPv4 and IPv6 outside and
// inside, plain, not IP, and GSO, which both programs leave to the kernel.
func TestGoldenVectors(t *testing.T) {
	for name, ipv6 := range map[string]bool{"in IPv4": false, "in IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, ipv6)
			w.load()
			w.unbalanced = true // nobody sends the frames that the programs make
			x, h := w.newWire(), w.hosts[0]
			w.tap(h, 1, 0)
			h.remote(50, x.vteps[0], netip.Addr{})
			for name, frame := range map[string][]byte{
				"IPv4":          ip{protocol: protoUDP}.frame(1, 50, false, udp(1, 2, data)),
				"IPv4 with ECN": ip{protocol: protoTCP, ecn: 1, df: true}.frame(1, 50, false, tcp(address4(1), address4(50), 0x10, nil, data)),
				"IPv6":          ip{protocol: protoUDP, ecn: 2}.frame(1, 50, true, udp(1, 2, data)),
				"ARP":           ether(mac(50), mac(1), typeARP, arp(2, mac(1), address4(1), mac(50), address4(50))),
			} {
				kernels := name == "ARP"
				t.Run(name, func(t *testing.T) { lane{x, h}.test(t, frame, 0, kernels) })
				if !kernels {
					t.Run(name+", GSO", func(t *testing.T) { lane{x, h}.test(t, frame, 16, true) })
				}
			}
		})
	}
}

// lane is a host and a wire.
type lane struct {
	x *wire
	h *host
}

// test runs the programs of both directions on a frame. kernels says that both must leave it to the kernel's device.
func (l lane) test(t *testing.T, frame []byte, gso uint32, kernels bool) {
	peer, kind := l.x.vteps[0], uint16(typeIPv4)
	if peer.Is6() {
		kind = typeIPv6
	}
	verdict, out := l.h.testRun(t, "vp_in", "tap1", frame, gso)
	if want := golden(l.h.vtep, peer, frame, out, kernels); verdict != tcxRedirect || !bytes.Equal(out, want) {
		t.Fatalf("vp_in returns %d and makes\n% x\nwant\n% x", verdict, out, want)
	}
	back := backwards(frame)
	arrives := ether(l.h.underlayMAC(), l.x.mac, kind, vxlan(peer, l.h.vtep, vni, ip{ecn: innerECN(back)}, back))
	want, after := uint32(tcxRedirect), back
	if kernels {
		want, after = tcxNext, arrives
	}
	if verdict, out = l.h.testRun(t, "ul_in", "eth0", arrives, gso); verdict != want || !bytes.Equal(out, after) {
		t.Fatalf("ul_in returns %d and makes\n% x\nwant\n% x", verdict, out, after)
	}
}

// golden is the frame with its outer header, or as it was when the kernel's device gets it. The source port is a hash and
// taken from what came out, and so is the IPv6 flow label.
func golden(from, to netip.Addr, frame, out []byte, kernels bool) []byte {
	if kernels {
		return frame
	}
	h := ip{ecn: innerECN(frame), df: true}
	packet := vxlan(from, to, vni, h, frame)
	size := 20
	if from.Is6() {
		size = 40
		copy(packet[1:4], out[15:18])
		packet[1] = packet[1]&0x0f | innerECN(frame)<<4
	}
	copy(packet[size:size+2], out[14+size:])
	head := make([]byte, 12) // the kernel writes the MACs when it knows the next hop
	kind := []byte{8, 0}
	if from.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(head, kind, packet)
}

// backwards is the frame from guest 50 to guest 1.
func backwards(frame []byte) []byte {
	f := slices.Clone(frame)
	one, fifty := mac(1), mac(50)
	copy(f, one[:])
	copy(f[6:], fifty[:])
	return f
}
