package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// pathTimeout is how long a peer has to answer one echo request.
const pathTimeout = 500 * time.Millisecond

// peers tries the underlay towards every other host, with a packet as large as a full tunnel packet and not to be fragmented.
func (d *doctor) peers(ctx context.Context, s *fabric.Snapshot) {
	if s == nil {
		return
	}
	dev, err := net.InterfaceByName(d.config.Underlay.Device)
	if err != nil {
		return
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var findings []api.Finding
	for id, h := range s.Hosts {
		if id == d.config.Host || !h.Spec.VTEP.IsValid() {
			continue
		}
		all.Go(func() {
			f := d.path(ctx, id, h.Spec.VTEP, min(dev.MTU, h.Spec.UnderlayMTU))
			mu.Lock()
			defer mu.Unlock()
			findings = append(findings, f)
		})
	}
	all.Wait()
	slices.SortFunc(findings, func(a, b api.Finding) int { return strings.Compare(a.Check, b.Check) })
	d.findings = append(d.findings, findings...)
}

// path is the finding about one peer.
func (d *doctor) path(ctx context.Context, host fabric.HostID, vtep netip.Addr, mtu int) api.Finding {
	check := "peer." + string(host)
	from := d.config.Underlay.Address
	if from.Is4() != vtep.Is4() {
		return api.Finding{Check: check, Severity: api.Failed, Remedy: "give both hosts underlay addresses of one family",
			Message: fmt.Sprintf("host %s ends its tunnels at %s, which cannot be reached from %s", host, vtep, from)}
	}
	full := echo(ctx, from, vtep, mtu)
	if full == nil {
		return api.Finding{Check: check, Severity: api.OK, Message: fmt.Sprintf("host %s (%s) answers packets of %d bytes", host, vtep, mtu)}
	}
	if small := echo(ctx, from, vtep, 100); small != nil {
		return api.Finding{Check: check, Severity: api.Failed, Remedy: "check the underlay, and that ICMP echo and UDP 4789 pass its firewalls",
			Message: fmt.Sprintf("host %s (%s) does not answer: %v", host, vtep, small)}
	}
	return api.Finding{Check: check, Severity: api.Failed,
		Remedy:  fmt.Sprintf("raise the MTU on the way to %s, or lower that of %s on both hosts", host, d.config.Underlay.Device),
		Message: fmt.Sprintf("host %s (%s) answers small packets, but not those of %d bytes: %v", host, vtep, mtu, full)}
}

// Numbers of ICMP (RFC 792, RFC 4443).
const (
	icmpEcho, icmpEchoReply   = 8, 0
	icmp6Echo, icmp6EchoReply = 128, 129
)

// echo sends one ICMP echo request of size bytes of L3 packet that may not be fragmented, and waits for the answer.
func echo(ctx context.Context, from, to netip.Addr, size int) error {
	network, header, request := "ip4:1", 20, byte(icmpEcho)
	if to.Is6() {
		network, header, request = "ip6:58", 40, icmp6Echo
	}
	config := net.ListenConfig{Control: dontFragment}
	conn, err := config.ListenPacket(ctx, network, from.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	message := make([]byte, max(size-header, 16))
	id := uint16(time.Now().UnixNano())
	message[0] = request
	binary.BigEndian.PutUint16(message[4:], id)
	binary.BigEndian.PutUint16(message[2:], checksum(message)) // over ICMPv6 the kernel writes its own (RFC 3542 section 3.1)
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		if errors.Is(err, syscall.EMSGSIZE) {
			return fmt.Errorf("the kernel knows of a smaller MTU on the way")
		}
		return err
	}
	return await(conn, id, to)
}

// await waits for the reply with this identifier.
func await(conn net.PacketConn, id uint16, from netip.Addr) error {
	if err := conn.SetReadDeadline(time.Now().Add(pathTimeout)); err != nil {
		return err
	}
	buffer := make([]byte, 1<<16)
	for {
		n, sender, err := conn.ReadFrom(buffer)
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return fmt.Errorf("no answer within %s", pathTimeout)
		}
		if err != nil {
			return err
		}
		a, _ := netip.AddrFromSlice(sender.(*net.IPAddr).IP)
		if n < 8 || a.Unmap() != from || binary.BigEndian.Uint16(buffer[4:]) != id {
			continue
		}
		if buffer[0] == icmpEchoReply || buffer[0] == icmp6EchoReply {
			return nil
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// dontFragment makes the kernel refuse what is too large, and forget what it has learned of the path.
func dontFragment(network, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		if strings.HasPrefix(network, "ip6") {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
			return
		}
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	})
	return errors.Join(err, failed)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
