package datapath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// lan is a wire outside of the fabric: a Linux bridge in a namespace of its own, with one machine on it, and an uplink eth1 of
// each host. Host n has the address 10.77.0.(200+n) there, the machine 10.77.0.100.
type lan struct {
	w       *world
	ns      nic.Namespace
	machine nic.Namespace
}

var machine4, machine6 = address4(100), address6(100)

func hostAddress(n int) netip.Addr { return address4(200 + n) }

func (w *world) newLAN() *lan {
	w.tb.Helper()
	l := &lan{w: w, ns: w.namespace("lan"), machine: w.namespace("m")}
	w.in(l.ns, func() error {
		if err := exec.Command("ip", "link", "add", "lan0", "up", "type", "bridge", "mcast_snooping", "0").Run(); err != nil {
			return err
		}
		err := nic.CreateVeth(nic.Veth{Name: "m", Peer: "eth0", PeerNamespace: l.machine, PeerMAC: mac(100)})
		return firstError(err, nic.SetMaster("m", "lan0"), nic.SetUp("m"))
	})
	w.in(l.machine, func() error {
		return firstError(nic.AddAddress("eth0", netip.PrefixFrom(machine4, 24)), nic.AddAddress("eth0", netip.PrefixFrom(machine6, 64)), nic.SetUp("eth0"))
	})
	for i, h := range w.hosts {
		port := fmt.Sprintf("p%d", i)
		w.in(l.ns, func() error {
			err := nic.CreateVeth(nic.Veth{Name: port, Peer: "eth1", PeerNamespace: h.ns, PeerMAC: mac(200 + i)})
			return firstError(err, nic.SetMaster(port, "lan0"), nic.SetUp(port))
		})
		w.in(h.ns, func() error {
			return firstError(nic.AddAddress("eth1", netip.PrefixFrom(hostAddress(i), 24)), nic.AddAddress("eth1", netip.PrefixFrom(address6(200+i), 64)), nic.SetUp("eth1"))
		})
	}
	return l
}

// quiet keeps the kernels on the wire from saying anything by themselves.
func (l *lan) quiet() {
	l.w.tb.Helper()
	for _, h := range l.w.hosts {
		l.w.in(h.ns, func() error { return nic.DisableIPv6("eth1") })
	}
	l.w.in(l.machine, func() error { return nic.DisableIPv6("eth0") })
	l.w.in(l.ns, func() error {
		return exec.Command("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1").Run()
	})
}

// adopt puts the switch on the host's NIC.
func (h *host) adopt(hostAccess bool) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{
		Uplinks: map[string]datapath.Uplink{"eth1": {HostAccess: hostAccess}},
		Wires:   map[fabric.VNI]datapath.Wire{vni: {Device: "eth1"}},
	}})
}

// ping pings once from a namespace, and fails unless the answer is as wanted.
func (w *world) ping(from nic.Namespace, to netip.Addr, want bool) {
	w.tb.Helper()
	var out []byte
	err := from.Do(func() (err error) {
		out, err = exec.Command("ping", "-n", "-c", "1", "-W", "2", to.String()).CombinedOutput()
		return err
	})
	if (err == nil) != want {
		w.tb.Fatalf("ping from %s to %s: %v, answer wanted: %v\n%s", from.Name, to, err, want, out)
	}
}

// ear is a raw socket on a device.
type ear struct {
	tb        testing.TB
	fd, index int
}

func (l *lan) listen(device string, ns nic.Namespace) *ear {
	l.w.tb.Helper()
	e := &ear{tb: l.w.tb}
	l.w.in(ns, func() error {
		found, err := nic.Find(device)
		if err != nil {
			return err
		}
		e.index = found.Index
		all := int(binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})) << 8
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(e.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: e.index})
	})
	l.w.tb.Cleanup(func() { unix.Close(e.fd) })
	return e
}

func (e *ear) send(frame []byte) {
	e.tb.Helper()
	if err := unix.Sendto(e.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: e.index}); err != nil {
		e.tb.Fatal(err)
	}
}

// count reads what has been heard so far, and returns how often it was the frame, coming in.
func (e *ear) count(frame []byte) (n int) {
	buffer := make([]byte, 70000)
	for {
		size, from, err := unix.Recvfrom(e.fd, buffer, 0)
		if err != nil {
			return n
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && bytes.Equal(buffer[:size], frame) {
			n++
		}
	}
}

// countTagged is count, of frames with this tag; 0: without.
func (e *ear) countTagged(frame []byte, vlan int) (n int) {
	e.tb.Helper()
	buffer, control := make([]byte, 70000), make([]byte, 256)
	for {
		size, used, _, from, err := unix.Recvmsg(e.fd, buffer, control, 0)
		if err != nil {
			return n
		}
		messages, err := unix.ParseSocketControlMessage(control[:used])
		if err != nil || len(messages) != 1 {
			e.tb.Fatalf("no auxiliary data: %v", err)
		}
		tci := int(binary.NativeEndian.Uint16(messages[0].Data[16:])) & 0xfff
		ll, ok := from.(*unix.SockaddrLinklayer)
		if ok && ll.Pkttype != unix.PACKET_OUTGOING && bytes.Equal(buffer[:size], frame) && tci == vlan {
			n++
		}
	}
}
