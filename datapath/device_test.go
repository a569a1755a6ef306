package datapath_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestTCPBetweenContainers(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, ipv6)
			w.load()
			a, b, c := w.veth(w.hosts[0], 1), w.veth(w.hosts[0], 2), w.veth(w.hosts[1], 3)
			for _, to := range []*station{b, c} {
				for _, address := range to.port.Addresses[:2] {
					transfer(t, a, to, address, 30<<20)
				}
			}
		})
	}
}

// transfer sends random bytes over TCP and compares what arrives.
func transfer(t *testing.T, from, to *station, address netip.Addr, size int64) {
	t.Helper()
	var listener net.Listener
	if err := to.ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(address, 7777).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent, got := sha256.New(), sha256.New()
	var both errgroup.Group
	both.Go(func() error {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.Copy(got, c)
		return err
	})
	both.Go(func() error {
		var c net.Conn
		if err := from.ns.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
			return err
		}); err != nil {
			listener.Close()
			return err
		}
		defer c.Close()
		random := rand.NewChaCha8([32]byte{1})
		_, err := io.Copy(io.MultiWriter(sent, c), io.LimitReader(random, size))
		return err
	})
	if err := both.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Fatalf("%d bytes to %s arrive changed", size, address)
	}
}

func TestATapOnAFacadeBridgeIsAPortLikeAnyOther(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.bareTap(h, 1, 0), w.tap(h, 2, 0)
	a.hostRun("ip", "link", "add", "sw-blue", "type", "bridge")
	a.hostRun("ip", "link", "set", a.device, "master", "sw-blue")
	w.plug(&a.station)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	a.send(frame)
	if !bytes.Equal(b.receive(), frame) {
		t.Fatal("nothing comes from a tap on a bridge")
	}
	b.send(backFrom(frame, 2, 1))
	if a.receive() == nil {
		t.Fatal("nothing comes to a tap on a bridge")
	}
	h.detach(t, a.device, "vp_in")
	h.detach(t, a.device, "sentinel_in")
	a.send(frame)
	b.silent() // the bridge is down
	w.verify(h)
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("nothing comes after the repair")
	}
	w.unbalanced = true // what came without the core was not counted
}

// backFrom is a frame with other MACs and addresses.
func backFrom(frame []byte, src, dst int) []byte {
	return ip{protocol: frame[23]}.frame(src, dst, false, frame[34:])
}

func TestAContainerThatChangesNamespaceIsReachedThere(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	s := &station{ns: w.namespace("late"), port: newPort(2, datapath.Veth), device: "vp2", host: h}
	w.in(h.ns, func() error {
		return firstError(nic.CreateVeth(nic.Veth{Name: s.device, Peer: "eth9", MTU: 1500, PeerMAC: mac(2)}), nic.SetUp("eth9"))
	})
	w.plug(s)
	a.hostRun("ip", "link", "set", "eth9", "netns", s.ns.Name)
	w.in(s.ns, func() error {
		return firstError(nic.AddAddress("eth9", netip.PrefixFrom(address4(2), 24)), nic.SetUp("eth9"))
	})
	ask := ether(mac(2), mac(1), typeARP, arp(1, mac(1), address4(1), mac(2), address4(2)))
	for _, way := range []string{"out of the device", "straight into the namespace"} {
		eventually(t, "an answer comes when frames go "+way, func() bool { // the kernel takes its time with a carrier that was lost
			a.send(ask)
			_, got := a.receiveVnet(10 * time.Millisecond)
			return got != nil && be16(got, 12) == typeARP && be16(got, 20) == 2
		})
		w.verify(h)
	}
}

func TestFramesThatTheKernelRefusesAreNamed(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, ether(mac(1), mac(50), typeIPv4, data[:10])))
	eventually(t, "an inner packet shorter than any header is dropped", func() bool {
		_, c := h.counters()
		return c.Underlay.DropsIn[tracing.ReasonAdjustRoomFailed] == 1
	})
	a.silent()
}

func BenchmarkRead(b *testing.B) {
	w := newWorld(b, 1, false)
	w.load()
	h := w.hosts[0]
	peer := netip.MustParseAddr("10.66.0.9")
	put := datapath.State{
		Peers: map[netip.Addr]datapath.Peer{peer: {MTU: 1600}},
		FDB:   map[datapath.FDBKey]datapath.FDB{}, Neighbors: map[datapath.NeighborKey]fabric.MAC{},
	}
	for n := range 10_000 {
		m := fabric.MAC{2, 0, 0, 1, byte(n >> 8), byte(n)}
		put.FDB[datapath.FDBKey{VNI: vni, MAC: m}] = datapath.FDB{Peer: peer, Epoch: 1}
		put.Neighbors[datapath.NeighborKey{VNI: vni, Addr: netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}] = m
	}
	begin := time.Now()
	h.apply(datapath.Change{Put: put})
	b.Logf("putting took %v", time.Since(begin))
	b.ReportAllocs()
	for b.Loop() {
		if s, err := h.Read(b.Context()); err != nil || len(s.FDB) != 10_000 || len(s.Neighbors) != 10_000 {
			b.Fatal(err)
		}
	}
}

func BenchmarkAttach(b *testing.B) {
	w := newWorld(b, 1, false)
	w.load()
	h := w.hosts[0]
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		device := fmt.Sprintf("d%d", n)
		w.in(h.ns, func() error { return nic.CreateVeth(nic.Veth{Name: device, Peer: device + "p"}) })
		port := newPort(n%200+1, datapath.Veth)
		port.Name = fabric.PortID(device)
		b.StartTimer()
		h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{device: port}}})
	}
}

func TestAPortWhoseSwitchIsNotInForcePassesNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	h.apply(datapath.Change{Delete: datapath.State{Switches: map[fabric.VNI]datapath.Switch{vni: {}}}})
	a.expectDrop(tracing.ReasonVNIUnknown, frame)
	b.silent()
	h.apply(datapath.Change{Put: datapath.State{Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1500}}}})
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("the switch is in force again, and nothing passes")
	}
	a.send(ether(broadcast, mac(1), typeRARP, data))
	if b.receive() == nil {
		t.Fatal("the switch is in force again, and has forgotten its members")
	}
}

func TestAContainerOnABridgeOfItsOwnersStaysThere(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	s := &station{ns: w.namespace("g2"), port: newPort(2, datapath.Veth), device: "vp2", host: h}
	w.in(h.ns, func() error {
		return nic.CreateVeth(nic.Veth{Name: s.device, Peer: "eth0", PeerNamespace: s.ns, MTU: 1500, PeerMAC: mac(2)})
	})
	(&station{ns: h.ns}).run(t, "ip", "link", "add", "mine", "type", "bridge")
	(&station{ns: h.ns}).run(t, "ip", "link", "set", "vp2", "master", "mine")
	w.plug(s)
	if out := (&station{ns: h.ns}).run(t, "ip", "link", "show", "vp2"); !strings.Contains(out, "master mine") {
		t.Fatalf("the container's device was taken off its bridge: %s", out)
	}
	w.veth(h, 1)
	if out := (&station{ns: h.ns}).run(t, "ip", "link", "show", "vp1"); !strings.Contains(out, "master weftroom0") {
		t.Fatalf("a container's device has no room for headers: %s", out)
	}
}

func TestNothingWorksAfterClose(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	d := h.Datapath
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	_, read := d.Read(t.Context())
	_, counters := d.Counters(t.Context())
	_, host := d.Host(t.Context())
	for name, err := range map[string]error{
		"Read": read, "Counters": counters, "Host": host, "Verify": d.Verify(t.Context()), "Apply": d.Apply(t.Context(), datapath.Change{}),
		"Arm": d.Arm(t.Context(), 1, 1, time.Second), "Disarm": d.Disarm(t.Context(), 1), "Inject": d.Inject(t.Context(), "x", nil, 1),
	} {
		if !errors.Is(err, datapath.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, open := <-d.Events(); open {
		t.Error("the channel of events is still open")
	}
	h.load()
}
