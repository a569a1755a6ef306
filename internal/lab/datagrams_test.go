package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// datagrams are numbered ones that one guest sends to another, whose socket stays open while it moves.
type datagrams struct {
	from, to net.PacketConn
	where    net.Addr
	size     int // of each, in bytes
	stop     context.CancelFunc
	sender   sync.WaitGroup
	receiver sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time
	seen []uint64    // numbers, in the order in which they came
	when []time.Time // when each of them came
	// failed is what kept one from being sent.
	failed error
}

// openDatagrams opens both sockets; nothing is sent yet. The receiver has room for everything that may come at once after a pause.
func openDatagrams(t *testing.T, l *Lab, from, to string, where netip.AddrPort) *datagrams {
	t.Helper()
	network := "udp4"
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), where.Port())
	if where.Addr().Is6() {
		network, local = "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), where.Port())
	}
	d := &datagrams{where: net.UDPAddrFromAddrPort(where)}
	within(t, l.GuestNamespace(to), func() error {
		conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(local))
		if err == nil {
			enlarge(t, conn)
			d.to = conn
		}
		return err
	})
	within(t, l.GuestNamespace(from), func() (err error) {
		d.from, err = net.ListenUDP(network, nil)
		return err
	})
	d.stop = func() {}
	t.Cleanup(func() { d.stop(); d.sender.Wait(); d.from.Close(); d.to.Close(); d.receiver.Wait() })
	d.receiver.Go(func() { d.receive() })
	return d
}

// keepSending sends at a rate until end.
func (d *datagrams) keepSending(every time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.sender.Go(func() {
		tick := time.NewTicker(max(every, time.Millisecond))
		defer tick.Stop()
		begun, n := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for ; n < int(time.Since(begun)/every) && ctx.Err() == nil; n++ {
				if !d.send() {
					return
				}
			}
		}
	})
}

// burst sends so many at this rate, or as fast as it goes where every is 0.
func (d *datagrams) burst(n int, every time.Duration) error {
	begun, tick := time.Now(), time.NewTicker(max(every, 1))
	defer tick.Stop()
	for i := range n {
		for every > 0 && time.Since(begun) < time.Duration(i)*every {
			<-tick.C // the rate is an upper bound
		}
		if !d.send() {
			return d.failed
		}
	}
	return nil
}

func (d *datagrams) send() bool {
	d.mu.Lock()
	number := uint64(len(d.sent))
	d.sent = append(d.sent, time.Now())
	d.mu.Unlock()
	b := make([]byte, max(d.size, 8))
	binary.BigEndian.PutUint64(b, number)
	if _, err := d.from.WriteTo(b, d.where); err != nil {
		d.failed = err
		return false
	}
	return true
}

func (d *datagrams) receive() {
	b := make([]byte, 2048)
	for {
		n, _, err := d.to.ReadFrom(b)
		if err != nil {
			return
		}
		if n >= 8 {
			d.mu.Lock()
			d.when = append(d.when, time.Now())
			d.seen = append(d.seen, binary.BigEndian.Uint64(b))
			d.mu.Unlock()
		}
	}
}

// arrivals are what became of numbered datagrams.
type arrivals struct {
	Sent, Received, Lost, Duplicated int
	// Extent is how many datagrams at most came before one that was sent before them (RFC 4737 section 4.2.2).
	Extent int
	came   []time.Time // when each came, by its number; zero where it did not
}

// end stops sending, waits for what may still come, and says what came.
func (d *datagrams) end(t *testing.T) arrivals {
	t.Helper()
	d.stop()
	d.sender.Wait()
	if d.failed != nil {
		t.Fatal(d.failed)
	}
	d.quiet(t)
	d.to.Close()
	d.receiver.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	a := arrivals{Sent: len(d.sent), Received: len(d.seen)}
	came, high := make([]time.Time, len(d.sent)), make([]uint64, 0, 8)
	for i, n := range d.seen {
		if !came[n].IsZero() {
			a.Duplicated++
			continue
		}
		came[n] = d.when[i]
		late := 0
		for _, h := range high {
			if h > n {
				late++
			}
		}
		a.Extent = max(a.Extent, late)
		if high = append(high, n); len(high) > 64 {
			high = high[1:]
		}
	}
	a.came = came
	for _, at := range came {
		if at.IsZero() {
			a.Lost++
		}
	}
	return a
}

// quiet waits until all have come, or nothing has come for a second.
func (d *datagrams) quiet(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	last, since := -1, time.Now()
	_ = poll(ctx, 5*time.Millisecond, func() (bool, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := len(d.seen); n != last {
			last, since = n, time.Now()
		}
		return last >= len(d.sent) || time.Since(since) > time.Second, nil
	})
}

func (a arrivals) String() string {
	return fmt.Sprintf("%d sent, %d came, %d lost, %d twice, out of order by %d at most", a.Sent, a.Received, a.Lost, a.Duplicated, a.Extent)
}
