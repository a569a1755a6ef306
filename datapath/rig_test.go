package datapath_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// world is a set of hosts as network namespaces, joined by one bridge.
type world struct {
	tb    testing.TB
	name  string
	under nic.Namespace
	hosts []*host
	// unbalanced is set by tests that run programs without what follows them.
	unbalanced bool
}

// host is a network namespace with an underlay device, a directory for pins, and the core.
type host struct {
	*datapath.Datapath
	tb     testing.TB
	ns     nic.Namespace
	vtep   netip.Addr
	pinDir string
}

// station is a guest: a namespace with one device.
type station struct {
	ns     nic.Namespace
	port   datapath.Port
	device string
	host   *host
}

const vni = fabric.VNI(4711)

// newWorld makes hosts that reach each other over IPv4 or IPv6.
func newWorld(tb testing.TB, hosts int, ipv6 bool) *world {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("this test makes network namespaces: run it as root")
	}
	w := &world{tb: tb, name: fmt.Sprintf("dpt%d", os.Getpid()%100000)}
	w.under = w.namespace("u")
	w.in(w.under, func() error {
		return exec.Command("ip", "link", "add", "br0", "up", "mtu", "1600", "type", "bridge", "mcast_snooping", "0").Run()
	})
	for i := range hosts {
		h := &host{tb: tb, ns: w.namespace(fmt.Sprintf("h%d", i)), vtep: netip.AddrFrom4([4]byte{10, 66, 0, byte(i + 1)})}
		prefix := netip.PrefixFrom(h.vtep, 24)
		if ipv6 {
			h.vtep = netip.MustParseAddr(fmt.Sprintf("fd66::%d", i+1))
			prefix = netip.PrefixFrom(h.vtep, 64)
		}
		uplink := fmt.Sprintf("u%d", i)
		w.in(w.under, func() error {
			err := nic.CreateVeth(nic.Veth{Name: uplink, Peer: "eth0", PeerNamespace: h.ns, MTU: 1600})
			if err != nil {
				return err
			}
			return firstError(nic.SetMaster(uplink, "br0"), nic.SetUp(uplink))
		})
		w.in(h.ns, func() error { return firstError(nic.AddAddress("eth0", prefix), nic.SetUp("eth0")) })
		w.hosts = append(w.hosts, h)
	}
	return w
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// namespace makes a namespace that ends with the test.
func (w *world) namespace(name string) nic.Namespace {
	w.tb.Helper()
	ns, err := nic.CreateNamespace(w.name + name)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			w.tb.Error(err)
		}
	})
	return ns
}

// in runs fn in a namespace.
func (w *world) in(ns nic.Namespace, fn func() error) {
	w.tb.Helper()
	if err := ns.Do(fn); err != nil {
		w.tb.Fatal(err)
	}
}

// load loads the core on every host, each knowing the others.
func (w *world) load() {
	w.tb.Helper()
	for i, h := range w.hosts {
		h.pinDir = bpffs(w.tb, fmt.Sprintf("%sh%d", w.name, i))
		h.load()
		w.tb.Cleanup(func() {
			if h.Datapath != nil {
				h.Close()
			}
			if err := h.ns.Do(func() error { return datapath.Uninstall(h.pinDir) }); err != nil {
				w.tb.Error(err)
			}
		})
	}
	w.tb.Cleanup(w.conserved)
	for _, h := range w.hosts {
		c := datapath.Change{Put: datapath.State{
			Peers:    map[netip.Addr]datapath.Peer{},
			Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1500}},
			Flood:    map[datapath.FloodKey]struct{}{},
		}}
		for _, other := range w.hosts {
			if other != h {
				c.Put.Peers[other.vtep] = datapath.Peer{MTU: 1600}
				c.Put.Flood[datapath.FloodKey{VNI: vni, Peer: other.vtep}] = struct{}{}
			}
		}
		h.apply(c)
	}
}

// load takes the core of the host over, or loads it.
func (h *host) load() {
	h.tb.Helper()
	err := h.ns.Do(func() (err error) {
		h.Datapath, err = datapath.Load(context.Background(), datapath.Options{PinDir: h.pinDir, Underlay: "eth0", VTEP: h.vtep, LabelKeys: keys})
		return err
	})
	if err != nil {
		h.tb.Fatal(err)
	}
}

func (h *host) apply(c datapath.Change) {
	h.tb.Helper()
	if err := h.ns.Do(func() error { return h.Apply(context.Background(), c) }); err != nil {
		h.tb.Fatal(err)
	}
}

// bpffs mounts a BPF file system of the test's own.
func bpffs(tb testing.TB, name string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		tb.Fatalf("mount a BPF file system: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir + "/" + name
}

// address4 and address6 are the guest addresses of a number.
func address4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}) }
func address6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd77::%x", n)) }

func mac(n int) fabric.MAC { return fabric.MAC{0x52, 0x54, 0, 0, 0, byte(n)} }

// newPort is an open port with all guards.
func newPort(n int, kind datapath.PortKind) datapath.Port {
	p := datapath.Port{
		Name: fabric.PortID(fmt.Sprintf("g%d", n)), VNI: vni, Kind: kind, Gate: datapath.Open, MAC: mac(n), Guards: 0x7f,
		Epoch: 1, Generation: 7,
	}
	p.Addresses[0], p.Addresses[1] = address4(n), address6(n)
	return p
}

// veth plugs guest number n into the host by a veth into a namespace of its own.
func (w *world) veth(h *host, n int) *station {
	w.tb.Helper()
	s := &station{ns: w.namespace(fmt.Sprintf("g%d", n)), port: newPort(n, datapath.Veth), device: fmt.Sprintf("vp%d", n), host: h}
	w.in(h.ns, func() error {
		return nic.CreateVeth(nic.Veth{Name: s.device, Peer: "eth0", PeerNamespace: s.ns, MTU: 1500, PeerMAC: mac(n)})
	})
	w.in(s.ns, func() error {
		return firstError(nic.AddAddress("eth0", netip.PrefixFrom(address4(n), 24)),
			nic.AddAddress("eth0", netip.PrefixFrom(address6(n), 64)), nic.SetUp("eth0"))
	})
	w.plug(s)
	return s
}

// plug tells every host of the station.
func (w *world) plug(s *station) {
	w.tb.Helper()
	key := datapath.FDBKey{VNI: vni, MAC: s.port.MAC}
	for _, h := range w.hosts {
		c := datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{}, Neighbors: map[datapath.NeighborKey]fabric.MAC{}}}
		for _, a := range s.port.Addresses {
			if a.IsValid() {
				c.Put.Neighbors[datapath.NeighborKey{VNI: vni, Addr: a}] = s.port.MAC
			}
		}
		if h == s.host {
			c.Put.Ports = map[string]datapath.Port{s.device: s.port}
			c.Put.FDB[key] = datapath.FDB{Device: s.device, Epoch: s.port.Epoch}
		} else {
			c.Put.FDB[key] = datapath.FDB{Peer: s.host.vtep, Epoch: s.port.Epoch}
		}
		h.apply(c)
	}
}

// run runs a command in the guest.
func (s *station) run(tb testing.TB, command ...string) string {
	tb.Helper()
	var out []byte
	err := s.ns.Do(func() (err error) {
		out, err = exec.Command(command[0], command[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		tb.Fatalf("%s in %s: %v\n%s", strings.Join(command, " "), s.ns.Name, err, out)
	}
	return string(out)
}

// route adds a route in the host's namespace.
func (w *world) route(h *host, prefix string, via netip.Addr) {
	w.tb.Helper()
	w.in(h.ns, func() error { return exec.Command("ip", "route", "replace", prefix, "via", via.String()).Run() })
}

// verify lets the host put back what is missing.
func (w *world) verify(h *host) {
	w.tb.Helper()
	w.in(h.ns, func() error { return h.Verify(context.Background()) })
}

// passThrough is a program that lets everything pass to the next one.
var passThrough = asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}
