package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/dhcp"
	"github.com/weftnet/weft/api"
)

// Bounds of the checks.
const (
	patience = 2 * time.Second // for an answer
	refusal  = time.Second     // after which a connection that is not answered counts as refused
	echoes   = 3
	bulk     = 256 << 10 // bytes there and back
)

// check tries everything, one after the other.
func (g *guest) check(ctx context.Context, peer netip.Addr) []api.TrialCheckResult {
	var all []api.TrialCheckResult
	type one struct {
		name string
		try  func(context.Context, netip.Addr) (string, error)
	}
	checks := []one{{"ping", g.ping}, {"full-size", g.fullSize}, {"tcp", g.tcp}, {"deny", g.denied}}
	if g.lease.IsValid() {
		checks = append(checks, one{"dhcp", g.leased})
	}
	for _, c := range checks {
		detail, err := c.try(ctx, peer)
		if err != nil {
			detail = err.Error()
		}
		all = append(all, api.TrialCheckResult{Name: c.name, OK: err == nil, Detail: detail})
	}
	return all
}

// ping sends small echo requests; one without an answer is a failure.
func (g *guest) ping(ctx context.Context, peer netip.Addr) (string, error) {
	least := patience
	for seq := range echoes {
		took, err := g.echo(ctx, peer, seq, 64)
		if err != nil {
			return "", fmt.Errorf("echo request %d of %d: %w", seq+1, echoes, err)
		}
		least = min(least, took)
	}
	return fmt.Sprintf("%d of %d, least %d µs", echoes, echoes, least.Microseconds()), nil
}

// fullSize sends one echo request as long as the MTU that must not be fragmented.
func (g *guest) fullSize(ctx context.Context, peer netip.Addr) (string, error) {
	took, err := g.echo(ctx, peer, echoes, g.mtu)
	if err != nil {
		return "", fmt.Errorf("a packet of %d bytes: %w", g.mtu, err)
	}
	return fmt.Sprintf("%d bytes, %d µs", g.mtu, took.Microseconds()), nil
}

// echo sends an echo request, an IP packet of size bytes that must not be fragmented, and waits for the answer.
func (g *guest) echo(ctx context.Context, peer netip.Addr, seq, size int) (time.Duration, error) {
	network, header := "ip4:icmp", 20
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if peer.Is6() {
		network, header, request, reply = "ip6:ipv6-icmp", 40, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	c, err := g.listenICMP(ctx, network)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	asked := icmp.Echo{ID: rand.IntN(1 << 16), Seq: seq, Data: bytes.Repeat([]byte{0x77}, size-header-8)}
	message, err := (&icmp.Message{Type: request, Body: &asked}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := c.WriteTo(message, &net.IPAddr{IP: peer.AsSlice()}); err != nil {
		return 0, err
	}
	answer := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(answer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, fmt.Errorf("no answer for %s", patience)
		}
		if err != nil {
			return 0, err
		}
		m, err := icmp.ParseMessage(reply.Protocol(), answer[:n])
		if err != nil || m.Type != reply || from.String() != peer.String() {
			continue
		}
		if got, is := m.Body.(*icmp.Echo); is && got.ID == asked.ID && got.Seq == seq && bytes.Equal(got.Data, asked.Data) {
			return time.Since(begin), nil
		}
	}
}

// listenICMP opens a raw socket in the guest whose packets are not fragmented.
func (g *guest) listenICMP(ctx context.Context, network string) (c net.PacketConn, err error) {
	whole := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			if network == "ip4:icmp" {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			}
		})
		return errors.Join(err, failed)
	}}
	err = g.namespace.Do(func() error {
		c, err = whole.ListenPacket(ctx, network, "")
		return err
	})
	return c, err
}

// tcp sends data to the peer and expects it back.
func (g *guest) tcp(ctx context.Context, peer netip.Addr) (string, error) {
	begin := time.Now()
	c, err := g.dial(ctx, peer, api.TrialOpenPort, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(begin.Add(5 * patience)); err != nil {
		return "", err
	}
	data := make([]byte, bulk)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	back := make([]byte, bulk)
	if n, err := io.ReadFull(c, back); err != nil {
		c.Close()
		<-sent
		return "", fmt.Errorf("%d of %d bytes came back: %w", n, bulk, err)
	}
	if err := <-sent; err != nil {
		return "", err
	}
	if !bytes.Equal(data, back) {
		return "", fmt.Errorf("the %d bytes that came back are others", bulk)
	}
	return fmt.Sprintf("%d kB there and back in %.1f ms", bulk>>10, float64(time.Since(begin).Microseconds())/1000), nil
}

// denied expects that no connection is made to the port that the trial's policy refuses. That the policy did it, and no lost packet, its
// rule's counter shows.
func (g *guest) denied(ctx context.Context, peer netip.Addr) (string, error) {
	c, err := g.dial(ctx, peer, api.TrialDeniedPort, refusal)
	if err != nil {
		return "no connection", nil
	}
	c.Close()
	return "", fmt.Errorf("a connection to TCP port %d was made although the policy refuses it", api.TrialDeniedPort)
}

// leased asks for a lease, and expects the address of the port and the MTU of its switch. The peer has no part in it.
func (g *guest) leased(ctx context.Context, _ netip.Addr) (string, error) {
	g.asking.Lock()
	defer g.asking.Unlock()
	var conn net.PacketConn
	err := g.namespace.Do(func() (err error) {
		conn, err = dhcp.OpenClient(ctx, inside)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	begin := time.Now()
	lease, err := dhcp.Ask(ctx, conn, g.mac)
	switch {
	case err != nil:
		return "", err
	case lease.Address != g.lease:
		return "", fmt.Errorf("server %s gives %s, and the port's address is %s", lease.Server, lease.Address, g.lease)
	case lease.MTU != g.mtu:
		return "", fmt.Errorf("server %s says an MTU of %d, and the switch's is %d", lease.Server, lease.MTU, g.mtu)
	}
	return fmt.Sprintf("%s from %s for %s, %d µs", lease.Address, lease.Server, lease.Time, time.Since(begin).Microseconds()), nil
}

// dial connects from the guest.
func (g *guest) dial(ctx context.Context, peer netip.Addr, port int, within time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: within}
	err = g.namespace.Do(func() error {
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(peer.String(), strconv.Itoa(port)))
		return err
	})
	return c, err
}
