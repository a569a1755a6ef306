package nic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// space makes a namespace that goes with the test.
func space(tb testing.TB, suffix string) Namespace {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("these tests make network namespaces: run them as root (make test)")
	}
	n, err := CreateNamespace(fmt.Sprintf("nictest-%d-%s", os.Getpid(), suffix))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Delete(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// in runs fn in the namespace and fails the test on its error.
func in(tb testing.TB, n Namespace, fn func() error) {
	tb.Helper()
	if err := n.Do(fn); err != nil {
		tb.Fatal(err)
	}
}

func TestNamespaceIsListedEnteredAndGone(t *testing.T) {
	n := space(t, "life")
	again, err := CreateNamespace(n.Name)
	if err != nil || again != n {
		t.Fatalf("creating it again: %v, %v", again, err)
	}
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	list, err := Namespaces(n.Name)
	if err != nil || !slices.Contains(list, n) {
		t.Fatalf("list: %v, %v", list, err)
	}
	in(t, n, func() error {
		links, err := Links()
		if err == nil && !slices.Equal(links, []string{"lo"}) {
			err = fmt.Errorf("a fresh namespace has %v", links)
		}
		return err
	})
	if after, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || after != before {
		t.Fatalf("Do left the test in %s, it came from %s (%v)", after, before, err)
	}
	if err := n.Delete(); err != nil || n.Exists() {
		t.Fatalf("delete: %v, exists %v", err, n.Exists())
	}
	if err := n.Delete(); err != nil {
		t.Fatalf("delete twice: %v", err)
	}
	if err := n.Do(func() error { return nil }); err == nil || !strings.Contains(err.Error(), n.Name) {
		t.Fatalf("entering what is gone: %v", err)
	}
}

func TestNoThreadStaysInTheNamespace(t *testing.T) {
	n := space(t, "threads")
	var group errgroup.Group
	for range 100 { // the scheduler puts some of these on the first thread of the process, which cannot end
		group.Go(func() error {
			return n.Do(func() error { _, err := os.ReadDir("/proc/self/task"); return err })
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat("/run/netns/" + n.Name)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("%v, %v", tasks, err)
	}
	for _, task := range tasks {
		if have, err := os.Stat(task); err == nil && os.SameFile(have, want) {
			t.Errorf("%s stayed in the namespace", task)
		}
	}
}

func TestProcessStartedInNamespaceIsFoundThere(t *testing.T) {
	n := space(t, "proc")
	cmd := exec.Command("sleep", "60")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	pids, err := n.Processes()
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) || len(pids) != 1 {
		t.Fatalf("processes %v, want only %d (%v)", pids, cmd.Process.Pid, err)
	}
}

func TestVethJoinsTwoNamespaces(t *testing.T) {
	a, b := space(t, "va"), space(t, "vb")
	pair := Veth{Name: "eth0", Peer: "eth0", PeerNamespace: b, MTU: 1400, MAC: fabric.MAC{2, 0, 0, 0, 0, 1}, PeerMAC: fabric.MAC{2, 0, 0, 0, 0, 2}}
	for range 2 { // the second time finds it as wanted
		in(t, a, func() error { return CreateVeth(pair) })
	}
	for i, n := range []Namespace{a, b} {
		in(t, n, func() error {
			link, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			if link.MTU != 1400 || link.HardwareAddr[5] != byte(i+1) {
				return fmt.Errorf("MTU %d, MAC %s", link.MTU, link.HardwareAddr)
			}
			four, six := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}), 24), netip.MustParsePrefix(fmt.Sprintf("fd99::%d/64", i+1))
			return errors.Join(AddAddress("eth0", four), AddAddress("eth0", four), AddAddress("eth0", six), SetUp("eth0"), SetUp("eth0"))
		})
	}
	for _, to := range []string{"10.99.0.2", "fd99::2"} {
		in(t, a, func() error { return dialUDP(to) })
	}
	in(t, a, func() error { return errors.Join(Delete("eth0"), Delete("eth0")) })
	in(t, b, func() error {
		if _, err := find("eth0"); !errors.Is(err, ErrNoDevice) {
			return fmt.Errorf("the peer outlived its other end: %v", err)
		}
		return nil
	})
}

// dialUDP knocks at a closed port: the refusal proves both directions.
func dialUDP(to string) error {
	conn, err := net.Dial("udp", net.JoinHostPort(to, "9"))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("no answer from %s: %v", to, err)
	}
	return nil
}

func TestAddressesAndRoutesAreSetOnceAndTakenAway(t *testing.T) {
	n := space(t, "addr")
	address := netip.MustParsePrefix("10.96.0.1/24")
	in(t, n, func() error {
		if err := errors.Join(CreateVeth(Veth{Name: "v0", Peer: "v1"}), SetUp("v0"), SetUp("v1"), AddAddress("v0", address)); err != nil {
			return err
		}
		far := netip.MustParsePrefix("192.0.2.0/24")
		for range 2 {
			if err := AddRoute("v0", far, netip.MustParseAddr("10.96.0.9")); err != nil {
				return err
			}
		}
		if err := AddRoute("v0", netip.MustParsePrefix("198.51.100.0/24"), netip.Addr{}); err != nil {
			return err
		}
		for _, to := range []string{"192.0.2.5:9", "198.51.100.5:9"} {
			conn, err := net.Dial("udp", to)
			if err != nil {
				return fmt.Errorf("no route to %s: %w", to, err)
			}
			if from := conn.LocalAddr().String(); !strings.HasPrefix(from, "10.96.0.1:") {
				return fmt.Errorf("%s is reached from %s", to, from)
			}
			conn.Close()
		}
		have, err := Addresses("v0")
		if err != nil || !slices.Contains(have, address) {
			return fmt.Errorf("addresses %v (%v)", have, err)
		}
		if err := errors.Join(RemoveAddress("v0", address), RemoveAddress("v0", address)); err != nil {
			return err
		}
		if have, err = Addresses("v0"); err != nil || slices.Contains(have, address) {
			return fmt.Errorf("after removal: %v (%v)", have, err)
		}
		return nil
	})
}

func TestFacadeStaysDownAndKeepsItsMTU(t *testing.T) {
	n := space(t, "facade")
	in(t, n, func() error {
		for range 2 {
			name, err := SetFacade("blue", 1450)
			if err != nil || name != "sw-blue" {
				return fmt.Errorf("%s: %v", name, err)
			}
		}
		tap, err := OpenTap("t0", TapOptions{MTU: 1300, NoIPv6: true})
		if err != nil {
			return err
		}
		if err := errors.Join(SetMaster("t0", "sw-blue"), SetMaster("t0", ""), tap.Close()); err != nil {
			return err
		}
		link, err := net.InterfaceByName("sw-blue")
		if err != nil {
			return err
		}
		if up, err := IsUp("sw-blue"); up || err != nil || link.MTU != 1450 {
			return fmt.Errorf("up %v, MTU %d after its last port left (%v)", up, link.MTU, err)
		}
		if _, err := os.Stat("/proc/sys/net/ipv6/conf/t0"); err == nil {
			return errors.New("the tap outlived its file")
		}
		return nil
	})
}

func TestLongNamesStayDistinctAndFit(t *testing.T) {
	a, b := FacadeName("a-very-long-switch-name-1"), FacadeName("a-very-long-switch-name-2")
	if a == b || len(a) != MaxName || len(b) != MaxName {
		t.Fatalf("%q and %q", a, b)
	}
	if got := FacadeName("exactly-12-c"); got != "sw-exactly-12-c" {
		t.Fatal(got)
	}
}

func TestErrorsNameDeviceAndRemedy(t *testing.T) {
	n := space(t, "errors")
	held := func() error {
		tap, err := OpenTap("held", TapOptions{})
		if err != nil {
			return err
		}
		defer tap.Close()
		_, err = OpenTap("held", TapOptions{})
		return err
	}
	cases := map[string]struct {
		do   func() error
		want []string
	}{
		"a device that is not there":   {func() error { return SetUp("nope") }, []string{"nope", "no such device", "ip link"}},
		"a name that is too long":      {func() error { return CreateBridge("sixteen-letters-", 1500) }, []string{"sixteen-letters-", "15"}},
		"a name with a slash":          {func() error { _, err := OpenTap("a/b", TapOptions{}); return err }, []string{"a/b"}},
		"another kind of that name":    {func() error { return CreateBridge("lo", 1500) }, []string{"lo", "rename or delete"}},
		"a tap that is held":           {held, []string{"held", "release it first"}},
		"a bridge that is not there":   {func() error { return SetMaster("lo", "sw-none") }, []string{"sw-none", "no such device"}},
		"a setting that is not there":  {func() error { return SetSysctl("net/nope", "1") }, []string{"net.nope"}},
		"an unknown offload":           {func() error { return SetFeatures("lo", map[Feature]bool{"tx-magic": true}) }, []string{"lo", "tx-magic"}},
		"an MTU that cannot be":        {func() error { return SetMTU("lo", -5) }, []string{"lo", "-5"}},
		"offloads of a missing device": {func() error { return ForceSegmentation("nope") }, []string{"nope", "no such device"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := n.Do(c.do)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not mention %q", err, part)
				}
			}
		})
	}
}

func TestForcedSegmentationCutsBeforeTheWire(t *testing.T) {
	n := space(t, "seg")
	in(t, n, func() error {
		if err := CreateVeth(Veth{Name: "v0", Peer: "v1"}); err != nil {
			return err
		}
		before, err := Features("v0")
		if err != nil {
			return err
		}
		if !before[GSO] || !before["tx-tcp-segmentation"] || !before["tx-udp_tnl-segmentation"] {
			return fmt.Errorf("a fresh veth has %v", before)
		}
		if err := ForceSegmentation("v0"); err != nil {
			return err
		}
		if err := SetFeatures("v1", map[Feature]bool{GRO: true}); err != nil {
			return err
		}
		after, err := Features("v0")
		if err != nil {
			return err
		}
		for name, on := range after {
			if on && strings.HasSuffix(string(name), "segmentation") {
				return fmt.Errorf("%s is still on", name)
			}
		}
		other, err := Features("v1")
		if err == nil && !other[GRO] {
			err = errors.New("GRO did not go on")
		}
		return err
	})
}

func TestTapCarriesVnetHeaderAndSuperPackets(t *testing.T) {
	n := space(t, "tap")
	in(t, n, func() error {
		tap, err := OpenTap("t0", TapOptions{MTU: 1450, QueueLength: 77, Offload: FullOffload, NoIPv6: true, MAC: HostMAC(fabric.MAC{0x52, 0x54, 0, 1, 2, 3})})
		if err != nil {
			return err
		}
		defer tap.Close()
		link, err := net.InterfaceByName("t0")
		if err != nil {
			return err
		}
		if link.MTU != 1450 || link.HardwareAddr.String() != "fe:54:00:01:02:03" || link.Flags&net.FlagUp != 0 {
			return fmt.Errorf("MTU %d, MAC %s, flags %s", link.MTU, link.HardwareAddr, link.Flags)
		}
		features, err := Features("t0")
		if err != nil || !features["tx-tcp-segmentation"] || !features["tx-tcp6-segmentation"] || !features["tx-udp-segmentation"] {
			return fmt.Errorf("offloads %v (%v)", features, err)
		}
		if err := errors.Join(AddAddress("t0", netip.MustParsePrefix("10.98.0.1/24")), SetUp("t0")); err != nil {
			return err
		}
		conn, err := net.Dial("udp", "10.98.0.2:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		tap.SetReadDeadline(time.Now().Add(5 * time.Second))
		frame := make([]byte, 2048)
		size, err := tap.Read(frame)
		// An ARP request: header of 12 bytes, then broadcast destination, EtherType 0806.
		if err != nil || size < VnetHeader+42 || frame[VnetHeader] != 0xff || frame[VnetHeader+12] != 8 || frame[VnetHeader+13] != 6 {
			return fmt.Errorf("read % x: %v", frame[:max(size, 0)], err)
		}
		return nil
	})
}

// QEMU takes the virtio header of a driver off what it has read with that of none: the frame is nobody's as it is, and two bytes short.
func TestATapIsPrimedWithAFrameThatIsNobodys(t *testing.T) {
	n := space(t, "prime")
	in(t, n, func() error {
		tap, err := OpenTap("t0", TapOptions{NoIPv6: true})
		if err != nil {
			return err
		}
		defer tap.Close()
		if err := Prime("t0"); err == nil {
			t.Error("a tap that is down was primed")
		}
		if err := errors.Join(SetUp("t0"), Prime("t0")); err != nil {
			return err
		}
		tap.SetReadDeadline(time.Now().Add(5 * time.Second))
		frame := make([]byte, 2048)
		size, err := tap.Read(frame)
		if err != nil || size != VnetHeader+60 {
			return fmt.Errorf("read %d bytes: %w", size, err)
		}
		for _, short := range []int{0, 2} {
			f := frame[VnetHeader+short:]
			if f[0]&3 != 2 || f[6]&3 != 2 || f[12] != 0x88 || f[13] != 0xb5 {
				t.Errorf("%d bytes short it is % x", short, f[:14])
			}
		}
		return nil
	})
}

func TestWhatIsTakenOffADeviceThatIsGoneIsOff(t *testing.T) {
	in(t, space(t, "gone"), func() error {
		return errors.Join(Queues{Device: "eth9", Major: 7}.Remove(), SetDownIfThere("eth9"), Delete("eth9"))
	})
}
