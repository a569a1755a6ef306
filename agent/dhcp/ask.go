package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Lease is what a client was given.
type Lease struct {
	Address, Server netip.Addr
	// MTU is in bytes, 0 when the server does not say one.
	MTU  int
	Time time.Duration
}

const (
	askTimes  = 5
	askWithin = time.Second // for one answer
)

// OpenClient opens the socket of a DHCPv4 client on a device of the calling thread's network namespace. The device has its address
// already: answers are sent to that.
func OpenClient(ctx context.Context, device string) (net.PacketConn, error) {
	return listen(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", clientPort4), device, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	})
}

// Ask takes a lease as a client does that knows nothing (RFC 2131 section 3.1): it discovers, takes the first offer and requests it.
// A message without an answer within a second is sent again, five times in all.
func Ask(ctx context.Context, conn net.PacketConn, mac fabric.MAC) (Lease, error) {
	discover, err := dhcpv4.NewDiscovery(mac[:])
	if err != nil {
		return Lease{}, fmt.Errorf("write a discovery: %w", err)
	}
	offer, err := exchange(ctx, conn, discover, dhcpv4.MessageTypeOffer)
	if err != nil {
		return Lease{}, fmt.Errorf("discover: %w", err)
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		return Lease{}, fmt.Errorf("write a request: %w", err)
	}
	ack, err := exchange(ctx, conn, request, dhcpv4.MessageTypeAck)
	if err != nil {
		return Lease{}, fmt.Errorf("request %s: %w", offer.YourIPAddr, err)
	}
	lease := Lease{Address: addr(ack.YourIPAddr), Server: addr(ack.ServerIdentifier()), Time: ack.IPAddressLeaseTime(0)}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		lease.MTU = int(mtu)
	}
	return lease, nil
}

// exchange sends a message and waits for its answer.
func exchange(ctx context.Context, conn net.PacketConn, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	buf := make([]byte, 1500)
	for range askTimes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: serverPort4}); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(askWithin)); err != nil {
			return nil, err
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err
			}
			answer, err := dhcpv4.FromBytes(buf[:n])
			if err != nil || answer.TransactionID != m.TransactionID || answer.OpCode != dhcpv4.OpcodeBootReply {
				continue
			}
			switch answer.MessageType() {
			case want:
				return answer, nil
			case dhcpv4.MessageTypeNak:
				return nil, fmt.Errorf("the server refuses: %s", answer.Message())
			}
		}
	}
	return nil, fmt.Errorf("no answer to %d messages, %s each", askTimes, askWithin)
}
