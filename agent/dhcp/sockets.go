package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// Groups that guests ask (RFC 8415 section 7.1, RFC 4291 section 2.7.1).
var (
	allServers = [16]byte{0: 0xff, 1: 0x02, 13: 1, 15: 2}
	allRouters = [16]byte{0: 0xff, 1: 0x02, 15: 2}
)

// typeSolicitation is a router solicitation (RFC 4861 section 4.1).
const typeSolicitation = 133

// listen opens a socket that hears one device alone, beside other servers on other devices of the host.
func listen(ctx context.Context, network, address, device string, more func(fd int) error) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.BindToDevice(int(fd), device)
			if failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
			if failed == nil && more != nil {
				failed = more(int(fd))
			}
		})
		if err != nil {
			return err
		}
		return failed
	}}
	conn, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w (another DHCP server on all of the host's devices? see `ss -lunp`)", err)
	}
	return conn, nil
}

func listen4(ctx context.Context, device string) (*net.UDPConn, error) {
	conn, err := listen(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", serverPort4), device, nil)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func listen6(ctx context.Context, device nic.Device) (*net.UDPConn, error) {
	conn, err := listen(ctx, "udp6", fmt.Sprintf("[::]:%d", serverPort6), device.Name, func(fd int) error {
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: allServers, Interface: uint32(device.Index)})
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// listenSolicitations hears router solicitations, and no other ICMPv6.
func listenSolicitations(ctx context.Context, device nic.Device) (*net.IPConn, error) {
	conn, err := listen(ctx, "ip6:58", "::", device.Name, func(fd int) error {
		only := unix.ICMPv6Filter{}
		for i := range only.Data {
			only.Data[i] = ^uint32(0)
		}
		only.Data[typeSolicitation/32] &^= 1 << (typeSolicitation % 32)
		if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &only); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1); err != nil {
			return err
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: allRouters, Interface: uint32(device.Index)})
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.IPConn), nil
}

// solicitation receives one. One that came through a router, with a hop limit below 255, is returned with nothing in it
// (RFC 4861 section 6.1.1).
func (s *Server) solicitation(buf []byte) (int, netip.AddrPort, error) {
	var control [128]byte
	n, nControl, _, from, err := s.icmp.ReadMsgIP(buf, control[:])
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	address, _ := netip.AddrFromSlice(from.IP)
	if hopLimit(control[:nControl]) != 255 {
		n = 0
	}
	return n, netip.AddrPortFrom(address, 0), nil
}

func hopLimit(control []byte) byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) > 0 {
			return m.Data[0]
		}
	}
	return 0
}
