package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// The peers: the same guests, joined in several ways.
const (
	raw      = "raw veth"
	bridge   = "bridge+VXLAN"
	weft     = "weft"
	filtered = "bridge+VXLAN+nftables"
)

const (
	// underlayMTU is an Ethernet; guestMTU is what is left of it inside VXLAN over IPv4, for all peers, so that all send
	// segments of the same size.
	underlayMTU = 1500
	guestMTU    = 1450
	// prefix begins the name of every namespace the benchmark makes: prefix-PID-N-SUFFIX.
	prefix = "weftbench-"
)

// lane names a way between two guests.
type lane string

// The lanes of a site. Guest a is on host 0 and sends; the others answer.
const (
	cross lane = "cross-host" // a to b on host 1, both behind veths
	local lane = "local"      // a to c on host 0, both behind veths
	tap   lane = "tap"        // a to t on host 1, behind a tap with a pump
)

// ends are the two guests of a lane, and the receiving one's address on it.
type ends struct {
	from, to nic.Namespace
	addr     netip.Addr
}

// reversed has the guests change places; addr is then the first sender's.
func (e ends) reversed(addr netip.Addr) ends { return ends{from: e.to, to: e.from, addr: addr} }

// site is one peer's topology, standing.
type site struct {
	peer   string
	prefix string
	lanes  map[lane]ends
	// sender is guest a's address on every lane of the site.
	sender map[lane]netip.Addr
	// wires are the devices that stand for the cable between the hosts, with their namespaces.
	wires []wireEnd
	// hosts are those of the bridge and of weft, planes weft's forwarding cores in them.
	hosts  []nic.Namespace
	planes []*datapath.Datapath
	// judge puts a ruleset on the guests of the lane across hosts; nil where there is nothing that could judge. ruled is the one
	// in force.
	judge func(ruleset) error
	ruled ruleset
	undo  []func() error
}

// wireEnd is a device at one end of the underlay.
type wireEnd struct {
	space  nic.Namespace
	device string
}

// newSite makes an empty site whose names are this process's own: number tells the sites of one run apart.
func newSite(peer string, number int) *site {
	return &site{
		peer:   peer,
		prefix: fmt.Sprintf("%s%d-%d-", prefix, os.Getpid(), number),
		lanes:  map[lane]ends{},
		sender: map[lane]netip.Addr{},
	}
}

// Close removes everything the site made, in reverse order; what could not be removed is in the error.
func (s *site) Close() error {
	var errs []error
	for _, undo := range slices.Backward(s.undo) {
		errs = append(errs, undo())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// closeOnError removes what was half built.
func closeOnError(c io.Closer, err *error) {
	if *err != nil {
		*err = errors.Join(*err, c.Close())
	}
}

// space makes a namespace that goes with the site; its own IPv6 stack is off, so that nothing speaks unasked.
func (s *site) space(suffix string) (nic.Namespace, error) {
	n, err := nic.CreateNamespace(s.prefix + suffix)
	if err != nil {
		return n, err
	}
	s.undo = append(s.undo, n.Delete)
	return n, n.Do(func() error {
		return errors.Join(nic.DisableIPv6("all"), nic.DisableIPv6("default"))
	})
}

// spaces makes several namespaces at once.
func (s *site) spaces(suffixes ...string) ([]nic.Namespace, error) {
	made := make([]nic.Namespace, len(suffixes))
	for i, suffix := range suffixes {
		n, err := s.space(suffix)
		if err != nil {
			return nil, err
		}
		made[i] = n
	}
	return made, nil
}

// guestNIC raises a guest's device with its address.
func guestNIC(space nic.Namespace, device string, address netip.Prefix) error {
	return space.Do(func() error {
		return errors.Join(nic.SetMTU(device, guestMTU), nic.SetUp(device), nic.AddAddress(device, address))
	})
}

// plugVeth gives a guest the NIC eth0, whose other end is device in the host.
func plugVeth(host nic.Namespace, device string, g guest) error {
	err := host.Do(func() error {
		return nic.CreateVeth(nic.Veth{Name: device, Peer: "eth0", PeerNamespace: g.space, MTU: guestMTU, PeerMAC: g.mac})
	})
	if err != nil {
		return err
	}
	return guestNIC(g.space, "eth0", g.prefix())
}

// plugTap gives a guest the NIC eth0 behind a tap of the host, with a pump between the two as a hypervisor has.
func (s *site) plugTap(host nic.Namespace, device string, g guest) error {
	hostTap, err := openTap(host, device, nic.TapOptions{MTU: guestMTU, Offload: nic.FullOffload, NoIPv6: true, MAC: nic.HostMAC(g.mac)})
	if err != nil {
		return err
	}
	s.undo = append(s.undo, hostTap.Close)
	guestTap, err := openTap(g.space, "eth0", nic.TapOptions{MTU: guestMTU, Offload: nic.FullOffload, MAC: g.mac})
	if err != nil {
		return err
	}
	s.undo = append(s.undo, guestTap.Close)
	pump, err := startPump(hostTap, guestTap)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, pump.Close)
	return guestNIC(g.space, "eth0", g.prefix())
}

func openTap(space nic.Namespace, device string, o nic.TapOptions) (file *os.File, err error) {
	err = space.Do(func() error {
		file, err = nic.OpenTap(device, o)
		return err
	})
	return file, err
}

// guest is a guest on the switch that the bridge and weft build.
type guest struct {
	space nic.Namespace
	mac   fabric.MAC
	addr  netip.Addr
}

// newGuest gives guest N its namespace, MAC and address.
func newGuest(space nic.Namespace, n byte) guest {
	return guest{space: space, mac: fabric.MAC{0x02, 0, 0, 0x77, 0, n}, addr: netip.AddrFrom4([4]byte{10, 77, 0, n})}
}

func (g guest) prefix() netip.Prefix { return netip.PrefixFrom(g.addr, 24) }

// underlay joins two hosts by a veth, eth0 on both, and returns their addresses.
func (s *site) underlay(a, b nic.Namespace) ([2]netip.Addr, error) {
	vteps := [2]netip.Addr{netip.MustParseAddr("10.240.0.1"), netip.MustParseAddr("10.240.0.2")}
	err := a.Do(func() error {
		return nic.CreateVeth(nic.Veth{Name: "eth0", Peer: "eth0", PeerNamespace: b, MTU: underlayMTU})
	})
	for i, host := range []nic.Namespace{a, b} {
		s.wires = append(s.wires, wireEnd{space: host, device: "eth0"})
		err = errors.Join(err, host.Do(func() error {
			return errors.Join(nic.SetUp("eth0"), nic.AddAddress("eth0", netip.PrefixFrom(vteps[i], 24)))
		}))
	}
	return vteps, err
}

// addLane records a way from guest a to another guest.
func (s *site) addLane(name lane, a, to guest) {
	s.lanes[name], s.sender[name] = ends{from: a.space, to: to.space, addr: to.addr}, a.addr
}

// connected waits until every lane carries a connection: a device may be up before its bridge or its queue takes frames
// (net/core/link_watch.c), and the guests must know each other's MAC.
func (s *site) connected() error {
	for name, e := range s.lanes {
		for deadline := time.Now().Add(10 * time.Second); ; {
			err := e.connected()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("lane %s carries nothing: %w", name, err)
			}
		}
	}
	return nil
}

// connected opens one connection from guest to guest.
func (e ends) connected() error {
	var listener, port int
	err := e.to.Do(func() (err error) {
		listener, port, err = listen(e.addr)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	return e.from.Do(func() error {
		fd, err := connect(e.addr, port)
		if err == nil {
			closeHard(fd)
		}
		return err
	})
}

// segment makes the site's underlay look like a wire: nothing larger than the MTU leaves a device, and the receiving
// side merges again (datapath.md 2.4).
func (s *site) segment() error {
	for _, w := range s.wires {
		err := w.space.Do(func() error {
			if err := nic.ForceSegmentation(w.device); err != nil {
				return err
			}
			return nic.SetFeatures(w.device, map[nic.Feature]bool{nic.GRO: true, nic.GROList: false})
		})
		if err != nil {
			return fmt.Errorf("force segmentation on the underlay of %s: %w", s.peer, err)
		}
	}
	return nil
}

// sweep removes what benchmarks that were killed have left: namespaces and BPF file systems whose process is gone.
func sweep() error {
	left, err := nic.Namespaces(prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range left {
		if orphaned(n.Name) {
			errs = append(errs, n.Delete())
		}
	}
	dirs, err := filepath.Glob(filepath.Join(pinRoot, prefix+"*"))
	for _, dir := range dirs {
		if orphaned(filepath.Base(dir)) {
			_ = unix.Unmount(dir, 0) // it may not have come to be mounted
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(append(errs, err)...)
}

// orphaned reports whether the process that gave the name is gone.
func orphaned(name string) bool {
	text, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
	pid, err := strconv.Atoi(text)
	return err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
