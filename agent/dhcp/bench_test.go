package dhcp

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/packet"
)

// BenchmarkOffer is the time from a guest's DISCOVER to the OFFER, over a veth pair, on a switch with 1,000 ports.
func BenchmarkOffer(b *testing.B) {
	c := config()
	var macs []fabric.MAC
	for i := range 1000 {
		mac := fabric.MAC{0x52, 0x54, 1, 0, byte(i >> 8), byte(i)}
		macs = append(macs, mac)
		c.Clients[mac] = Client{Name: "web-1", Address4: netip.AddrFrom4([4]byte{10, 10, byte(i >> 8), byte(i)})}
	}
	c.Subnet4 = netip.MustParsePrefix("10.10.0.0/16")
	l := newLink(b, c)
	must(b, l.guest.Do(func() error { return nic.SetUp("eth0") }))
	var door *nic.Sender
	var ears int
	must(b, l.guest.Do(func() (err error) {
		if door, err = nic.OpenSender("eth0"); err != nil {
			return err
		}
		device, err := nic.Find("eth0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_IP<<8 | unix.ETH_P_IP>>8
		if ears, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		// The offers go to other MACs than the device's.
		request := &unix.PacketMreq{Ifindex: int32(device.Index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(ears, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, request); err != nil {
			return err
		}
		wait := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
		return unix.SetsockoptTimeval(ears, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	}))
	defer door.Close()
	defer syscall.Close(ears)
	var took []time.Duration
	buf := make([]byte, largest)
	i := 0
	for b.Loop() {
		m, err := dhcpv4.NewDiscovery(macs[i%len(macs)][:])
		must(b, err)
		i++
		p, err := packet.Datagram(netip.MustParseAddrPort("0.0.0.0:68"), netip.AddrPortFrom(everybody, serverPort4), m.ToBytes())
		must(b, err)
		begun := time.Now()
		must(b, door.Send(fabric.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, p))
		for {
			n, from, err := unix.Recvfrom(ears, buf, 0)
			if err == unix.EINTR {
				continue
			}
			must(b, err)
			if a, ok := from.(*unix.SockaddrLinklayer); !ok || a.Pkttype == unix.PACKET_OUTGOING || n < 28 {
				continue
			}
			if r, err := dhcpv4.FromBytes(buf[28:n]); err == nil && r.TransactionID == m.TransactionID {
				break
			}
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}
