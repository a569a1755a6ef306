package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// wire is a machine on the underlay that sends what it likes, and sees what is sent to it.
type wire struct {
	tb    testing.TB
	w     *world
	fd    int
	index int
	mac   fabric.MAC
	ipv6  bool
	vteps []netip.Addr
}

// newWire makes the machine with three addresses, of which the first two are peers of every host.
func (w *world) newWire() *wire {
	w.tb.Helper()
	x := &wire{tb: w.tb, w: w, mac: fabric.MAC{2, 0, 0, 0, 0, 0xee}, ipv6: w.hosts[0].vtep.Is6()}
	ns := w.namespace("x")
	w.in(w.under, func() error {
		err := nic.CreateVeth(nic.Veth{Name: "ux", Peer: "eth0", PeerNamespace: ns, MTU: 1600, PeerMAC: x.mac})
		return firstError(err, nic.SetMaster("ux", "br0"), nic.SetUp("ux"))
	})
	w.in(ns, func() (err error) {
		for n := range 3 {
			a, bits := netip.AddrFrom4([4]byte{10, 66, 0, byte(100 + n)}), 24
			if x.ipv6 {
				a, bits = netip.AddrFrom16([16]byte{0xfd, 0x66, 15: byte(100 + n)}), 64
			}
			x.vteps = append(x.vteps, a)
			if err := nic.AddAddress("eth0", netip.PrefixFrom(a, bits)); err != nil {
				return err
			}
		}
		if err := nic.SetUp("eth0"); err != nil {
			return err
		}
		device, err := nic.Find("eth0")
		if err != nil {
			return err
		}
		x.index = device.Index
		all := int(binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})) << 8
		x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(x.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
			return err
		}
		return unix.Bind(x.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: x.index})
	})
	w.tb.Cleanup(func() { unix.Close(x.fd) })
	for _, h := range w.hosts {
		h.apply(datapath.Change{Put: datapath.State{Peers: map[netip.Addr]datapath.Peer{x.vteps[0]: {MTU: 1600}, x.vteps[1]: {MTU: 1600}}}})
	}
	return x
}

// send sends an IP packet to a host's NIC.
func (x *wire) send(h *host, packet []byte) {
	x.tb.Helper()
	x.sendTo(h.underlayMAC(), packet)
}

func (x *wire) sendTo(dst fabric.MAC, packet []byte) {
	x.tb.Helper()
	kind := uint16(typeIPv4)
	if packet[0]>>4 == 6 {
		kind = typeIPv6
	}
	x.sendFrame(ether(dst, x.mac, kind, packet))
}

func (x *wire) sendFrame(frame []byte) {
	x.tb.Helper()
	if err := unix.Sendto(x.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: x.index}); err != nil {
		x.tb.Fatal(err)
	}
}

// receive waits for the next VXLAN packet to this machine and returns it from the IP header on; nil when none comes.
func (x *wire) receive() []byte {
	x.tb.Helper()
	buffer := make([]byte, 70000)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		tv := unix.NsecToTimeval(int64(time.Until(deadline)))
		if err := unix.SetsockoptTimeval(x.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			x.tb.Fatal(err)
		}
		n, from, err := unix.Recvfrom(x.fd, buffer, 0)
		if err != nil {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		p := append([]byte{}, buffer[14:n]...)
		switch {
		case p[0]>>4 == 4 && p[9] == protoUDP && (binary.BigEndian.Uint16(p[22:]) == 4789 || binary.BigEndian.Uint16(p[6:])&0x3fff != 0):
			return p
		case p[0]>>4 == 6 && (p[6] == protoUDP && binary.BigEndian.Uint16(p[42:]) == 4789 || p[6] == 44):
			return p
		}
	}
	return nil
}

// underlayMAC is the address of the host's NIC.
func (h *host) underlayMAC() (m fabric.MAC) {
	h.tb.Helper()
	err := h.ns.Do(func() error {
		device, err := nic.Find("eth0")
		m = device.MAC
		return err
	})
	if err != nil {
		h.tb.Fatal(err)
	}
	return m
}

// remote says that guest n lives at a peer, and may be heard from another.
func (h *host) remote(n int, peer, alt netip.Addr) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{
		FDB:       map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(n)}: {Peer: peer, Alt: alt, Epoch: 1}},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{{VNI: vni, Addr: address4(n)}: mac(n), {VNI: vni, Addr: address6(n)}: mac(n)},
	}})
}

// remoteless names the addresses of guest n without a place for it.
func (h *host) remoteless(n int) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{
		Neighbors: map[datapath.NeighborKey]fabric.MAC{{VNI: vni, Addr: address4(n)}: mac(n), {VNI: vni, Addr: address6(n)}: mac(n)},
	}})
}
