package datapath_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// arrival is a packet that comes from the underlay, and what becomes of it.
type arrival struct {
	claim  string
	packet []byte
	inner  []byte         // what the guest gets; nil for nothing
	reason tracing.Reason // why it gets nothing; 0: the kernel's device does not want it
}

// arrivals are packets from the wire to host h, where guest 1 is. Guest 50 lives at the first peer, guest 51 at the second,
// and may be heard from the first.
func arrivals(x *wire, h *host) []arrival {
	p0, p1, stranger := x.vteps[0], x.vteps[1], x.vteps[2]
	plain := ip{protocol: protoUDP}
	frame := plain.frame(50, 1, false, udp(1, 2, data))
	ect := ip{protocol: protoUDP, ecn: 2}.frame(50, 1, false, udp(1, 2, data))
	ce := ip{protocol: protoUDP, ecn: 3}.frame(50, 1, false, udp(1, 2, data))
	ect6, ce6 := ip{protocol: protoUDP, ecn: 2}.frame(50, 1, true, udp(1, 2, data)), ip{protocol: protoUDP, ecn: 3}.frame(50, 1, true, udp(1, 2, data))
	frame6 := plain.frame(50, 1, true, udp(1, 2, data))
	request := ether(mac(1), mac(50), typeARP, arp(1, mac(50), address4(50), mac(1), address4(1)))
	rarp := ether(broadcast, mac(50), typeRARP, arp(3, mac(50), any4, mac(50), any4))
	pack := func(from netip.Addr, inner []byte) []byte { return vxlan(from, h.vtep, vni, ip{}, inner) }
	return []arrival{
		{"an IPv4 frame from its home is delivered", pack(p0, frame), frame, 0},
		{"an IPv6 frame from its home is delivered", pack(p0, frame6), frame6, 0},
		{"an ARP request to the guest is delivered", pack(p0, request), request, 0},
		{"RARP to all is delivered", pack(p0, rarp), rarp, 0},
		{"a frame from a moving guest's other host is delivered", pack(p0, plain.frame(51, 1, false, udp(1, 2, data))), plain.frame(51, 1, false, udp(1, 2, data)), 0},
		{"a stranger's frame is dropped", pack(stranger, frame), nil, tracing.ReasonVTEPUnknown},
		{"a stranger's ARP is dropped", pack(stranger, request), nil, tracing.ReasonVTEPUnknown},
		{"a frame whose source lives at another peer is dropped", pack(p1, frame), nil, tracing.ReasonVTEPNotAllowed},
		{"an ARP whose source lives at another peer is dropped", pack(p1, request), nil, tracing.ReasonVTEPNotAllowed},
		{"a frame from an unknown station is dropped", pack(p0, plain.frame(52, 1, false, udp(1, 2, data))), nil, tracing.ReasonVTEPNotAllowed},
		{"a frame in the name of a guest of this host is dropped", pack(p0, plain.frame(2, 1, false, udp(1, 2, data))), nil, tracing.ReasonVTEPNotAllowed},
		{"a group frame in the name of a guest of this host is dropped", pack(p0, ether(broadcast, mac(2), typeRARP, data)), nil, tracing.ReasonVTEPNotAllowed},
		{"a frame on a VNI that is not here is dropped", vxlan(p0, h.vtep, 99, ip{}, frame), nil, tracing.ReasonVNIUnknown},
		{"a frame to an unknown station is dropped", pack(p0, plain.frame(50, 99, false, udp(1, 2, data))), nil, tracing.ReasonDstUnknown},
		{"an ARP to an unknown station is dropped", pack(p0, ether(mac(99), mac(50), typeARP, arp(2, mac(50), address4(50), mac(99), address4(99)))), nil, tracing.ReasonDstUnknown},
		{"a frame to a station at another host is dropped", pack(p0, plain.frame(50, 51, false, udp(1, 2, data))), nil, tracing.ReasonLoopSplitHorizon},
		{"an ARP to a station at another host is dropped", pack(p0, ether(mac(51), mac(50), typeARP, request[14:])), nil, tracing.ReasonLoopSplitHorizon},
		{"VXLAN without the I flag is dropped", mangle(pack(p0, frame), 8, 0), nil, tracing.ReasonVXLANBad},
		{"VXLAN with a reserved flag is dropped", mangle(pack(p0, frame), 8, 0x0c), nil, tracing.ReasonVXLANBad},
		{"VXLAN with a reserved byte is dropped", mangle(pack(p0, frame), 15, 1), nil, tracing.ReasonVXLANBad},
		{"VXLAN around less than an Ethernet header is dropped", pack(p0, frame[:13]), nil, tracing.ReasonL2Short},
		{"a tagged frame is dropped", pack(p0, ether(mac(1), mac(50), 0x8100, append([]byte{0, 9, 8, 0}, frame[14:]...))), nil, tracing.ReasonVLANNotAllowed},
		{"congestion on the way is told to an ECN-capable guest", vxlan(p0, h.vtep, vni, ip{ecn: 3}, ect), ce, 0},
		{"the same over IPv6", vxlan(p0, h.vtep, vni, ip{ecn: 3}, ect6), ce6, 0},
		{"congestion on the way drops what is not ECN-capable", vxlan(p0, h.vtep, vni, ip{ecn: 3}, frame), nil, 0},
		{"an outer UDP checksum that is wrong drops", mangle(pack(p0, frame), 6, 1), nil, 0},
		{"a UDP length beyond the packet drops", mangle(pack(p0, frame), 4, 9), nil, 0},
		{"trailing bytes after the packet are cut off", append(pack(p0, frame), 0, 0, 0, 0), frame, 0},
	}
}

// mangle changes one byte at or after the UDP header of a packet.
func mangle(packet []byte, at int, to byte) []byte {
	header := 20
	if packet[0]>>4 == 6 {
		header = 40
	}
	packet[header+at] = to
	return packet
}

func TestArrivals(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, ipv6)
			w.load()
			x, h := w.newWire(), w.hosts[0]
			g := w.tap(h, 1, 0)
			w.tap(h, 2, 0)
			h.remote(50, x.vteps[0], netip.Addr{})
			h.remote(51, x.vteps[1], x.vteps[0])
			for _, a := range arrivals(x, h) {
				t.Run(a.claim, func(t *testing.T) { a.test(t, x, g) })
			}
			t.Run("ordinary traffic of the host is not touched", func(t *testing.T) { ordinary(t, w, x) })
		})
	}
}

func (a arrival) test(t *testing.T, x *wire, g *tapGuest) {
	x.tb, g.tb, g.host.tb = t, t, t
	ports, before := g.host.counters()
	x.send(g.host, a.packet)
	if a.inner != nil {
		if got := g.receive(); !bytes.Equal(got, a.inner) {
			t.Fatalf("the guest gets\n% x\nwant\n% x", got, a.inner)
		}
		return
	}
	drops := func(ports map[fabric.PortID]datapath.Counters, c datapath.HostCounters) uint64 {
		sum := c.Underlay.DropsIn[a.reason] + c.Tunnel.DropsIn[a.reason]
		for _, p := range ports { // a tag is the receiving port's matter
			sum += p.DropsOut[a.reason]
		}
		return sum
	}
	eventually(t, "the packet is met", func() bool {
		portsNow, now := g.host.counters()
		if a.reason == 0 {
			return now.Underlay.Passed > before.Underlay.Passed
		}
		return drops(portsNow, now) == drops(ports, before)+1
	})
	g.silent()
}

// ordinary checks that what is not VXLAN to the tunnel end point reaches the host's own stack.
func ordinary(t *testing.T, w *world, x *wire) {
	h := w.hosts[0]
	_, before := h.counters()
	if err := w.under.Do(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	err := (nic.Namespace{Name: w.name + "x"}).Do(func() error {
		out, err := exec.Command("ping", "-c", "3", "-i", "0.01", "-W", "1", "-s", "1400", h.vtep.String()).CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, after := h.counters(); after.Underlay.Rx != before.Underlay.Rx {
		t.Fatalf("ping was counted as VXLAN: %+v", after.Underlay)
	}
}

func TestVXLANToAnotherAddressOfTheHostIsRefused(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	other := netip.MustParseAddr("10.66.0.201")
	w.in(h.ns, func() error { return nic.AddAddress("eth0", netip.PrefixFrom(other, 24)) })
	x.send(h, vxlan(x.vteps[0], other, vni, ip{}, ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))))
	eventually(t, "the frame is refused", func() bool {
		_, c := h.counters()
		return c.Tunnel.DropsIn[tracing.ReasonVTEPNotAllowed] == 1
	})
	g.silent()
}

func TestOuterFragmentsAndOptionsArePutTogetherByTheKernel(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	frame := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, bytes.Repeat(data, 30)))
	whole := vxlan(x.vteps[0], h.vtep, vni, ip{}, frame)[20:]
	cut := 640
	x.send(h, ip{protocol: protoUDP, more: true}.packet(x.vteps[0], h.vtep, whole[:cut]))
	x.send(h, ip{protocol: protoUDP, offset: uint16(cut / 8)}.packet(x.vteps[0], h.vtep, whole[cut:]))
	if got := g.receive(); !bytes.Equal(got, frame) {
		t.Fatalf("from fragments the guest gets %d bytes, want %d", len(got), len(frame))
	}
	x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{options: 8}, frame))
	if got := g.receive(); !bytes.Equal(got, frame) {
		t.Fatalf("from a packet with options the guest gets %d bytes, want %d", len(got), len(frame))
	}
	stranger := vxlan(x.vteps[2], h.vtep, vni, ip{}, frame)[20:]
	x.send(h, ip{protocol: protoUDP, more: true}.packet(x.vteps[2], h.vtep, stranger[:cut]))
	x.send(h, ip{protocol: protoUDP, offset: uint16(cut / 8)}.packet(x.vteps[2], h.vtep, stranger[cut:]))
	eventually(t, "a stranger's fragments are refused", func() bool {
		_, c := h.counters()
		return c.Tunnel.DropsIn[tracing.ReasonVTEPUnknown] == 1
	})
	g.silent()
}

func TestAPacketForAnotherMachineIsNotOurs(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	packet := vxlan(x.vteps[0], h.vtep, vni, ip{}, ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data)))
	x.sendTo(fabric.MAC{2, 9, 9, 9, 9, 9}, packet) // flooded by the bridge to the host's NIC, which is not its addressee
	x.send(h, packet)
	if g.receive() == nil {
		t.Fatal("the second packet did not arrive")
	}
	if _, c := h.counters(); c.Underlay.Rx.Frames != 1 {
		t.Fatalf("%d packets were taken, want 1", c.Underlay.Rx.Frames)
	}
	g.silent()
}

func TestAClosedDestinationGetsNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g, neighbor := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	for _, c := range []struct {
		name   string
		change func(*datapath.Port)
		reason tracing.Reason
	}{
		{"closed", func(p *datapath.Port) { p.Gate = datapath.Closed }, tracing.ReasonPortDisabled},
		{"without settings", func(p *datapath.Port) { p.Generation = 0 }, tracing.ReasonPolicyMissing},
		{"given away", func(p *datapath.Port) { p.Gate = datapath.Relay }, tracing.ReasonNotOwner},
		{"on another switch", func(p *datapath.Port) { p.VNI = vni + 1 }, tracing.ReasonDeviceGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := g.port
			c.change(&p)
			h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: p}}})
			defer h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
			drops := func() uint64 { ports, _ := h.counters(); return ports["g1"].DropsOut[c.reason] }
			neighbor.send(ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data)))
			x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))))
			x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, ether(mac(1), mac(50), typeARP, arp(2, mac(50), address4(50), mac(1), address4(1)))))
			eventually(t, "all three frames are dropped", func() bool { return drops() == 3 })
			g.silent()
		})
	}
}

func TestVXLANFromAnotherNICIsRefused(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, ipv6)
			w.load()
			x, h := w.newWire(), w.hosts[0]
			g := w.tap(h, 1, 0)
			h.remote(50, x.vteps[0], netip.Addr{})
			container := w.namespace("c")
			var door nic.Device
			w.in(h.ns, func() (err error) {
				err = nic.CreateVeth(nic.Veth{Name: "docker0", Peer: "eth0", PeerNamespace: container})
				if err == nil {
					err = nic.SetUp("docker0")
				}
				if err == nil {
					door, err = nic.Find("docker0")
				}
				return err
			})
			w.in(container, func() error { return firstError(nic.DisableIPv6("eth0"), nic.SetUp("eth0")) })
			(&station{ns: h.ns}).run(t, "sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
			frame, request := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data)), ether(mac(1), mac(50), typeARP, arp(1, mac(50), address4(50), mac(1), address4(1)))
			sum := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, make([]byte, 1400)))
			packets := [][]byte{vxlan(x.vteps[0], h.vtep, vni, ip{}, frame), vxlan(x.vteps[0], h.vtep, vni, ip{}, request), vxlan(x.vteps[0], h.vtep, vni, ip{}, sum)}
			kind := uint16(typeIPv4)
			if ipv6 {
				kind = typeIPv6
			} else {
				packets = append(packets, vxlan(x.vteps[0], h.vtep, vni, ip{options: 4}, frame))
			}
			for i, packet := range packets {
				w.in(container, func() error { return sendFrom("eth0", 0, ether(door.MAC, mac(77), kind, packet)) })
				eventually(t, "it is refused", func() bool {
					_, c := h.counters()
					return c.Tunnel.DropsIn[tracing.ReasonNotUnderlay] == uint64(i+1)
				})
				g.silent()
			}
			for _, packet := range packets { // the same by the underlay
				x.send(h, packet)
				if g.receive() == nil {
					t.Fatalf("by the underlay it is lost: % x", packet)
				}
			}
		})
	}
}

// be16 reads a big-endian word.
func be16(b []byte, at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
