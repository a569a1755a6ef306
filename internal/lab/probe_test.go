package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// prober sends ICMP echo requests at a fixed rate, whether or not the answers come: what is lost while a guest stands still
// is lost for good, and what was kept for it comes late.
type prober struct {
	conn *net.IPConn
	to   *net.IPAddr
	// size is how long an ICMP message is, in bytes.
	size int
	stop context.CancelFunc
	// fresh makes every probe one of an own connection, by the identifier of ICMP.
	fresh bool
	// sender has ended when no probe is sent any more; receiver, which the closed connection ends, when none is heard.
	sender, receiver sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time
	back []time.Duration // round trip; 0 while there is no answer
	seen probes
	// failed is what kept a probe from being sent: that is the prober's own failure, and nothing on the way has lost it.
	failed error
}

// probes are what a prober saw.
type probes struct {
	Sent, Lost, Duplicated int
	// Late is the longest round trip, Gap the longest time without any answer.
	Late, Gap time.Duration
	last      time.Time
	// When are the times at which lost probes were sent, Answers those at which answers came.
	When, Answers []time.Time
}

// silence is how long after a moment the first answer came; 0 when there was no such moment, or no answer.
func (p probes) silence(moment time.Time) time.Duration {
	first := time.Time{}
	for _, t := range p.Answers {
		if t.After(moment) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if moment.IsZero() || first.IsZero() {
		return 0
	}
	return first.Sub(moment)
}

// around says when probes were lost, in milliseconds after a moment.
func (p probes) around(moment time.Time) (ms []int64) {
	for _, t := range p.When {
		ms = append(ms, t.Sub(moment).Milliseconds())
	}
	return ms
}

func (p probes) String() string {
	return fmt.Sprintf("%d sent, %d lost, %d duplicated, longest round trip %v, longest silence %v", p.Sent, p.Lost, p.Duplicated, p.Late.Round(time.Microsecond), p.Gap.Round(time.Microsecond))
}

// probing is what a prober sends.
type probing struct {
	to    netip.Addr
	every time.Duration
	// fresh makes every probe one of a connection of its own.
	fresh bool
	// size is how long an ICMP message is, in bytes: 16 unless it says more.
	size int
}

// probe begins to send from a guest that is a namespace.
func probe(t *testing.T, l *Lab, guest string, to netip.Addr, every time.Duration) *prober {
	t.Helper()
	return startProbe(t, l, guest, probing{to: to, every: every})
}

// probeAfresh is probe with a connection for each.
func probeAfresh(t *testing.T, l *Lab, guest string, to netip.Addr, every time.Duration) *prober {
	t.Helper()
	return startProbe(t, l, guest, probing{to: to, every: every, fresh: true})
}

func startProbe(t *testing.T, l *Lab, guest string, o probing) *prober {
	t.Helper()
	p := &prober{fresh: o.fresh, to: &net.IPAddr{IP: o.to.AsSlice()}, size: max(o.size, 16)}
	network := "ip4:icmp"
	if o.to.Is6() {
		network = "ip6:ipv6-icmp"
	}
	within(t, l.GuestNamespace(guest), func() (err error) {
		p.conn, err = net.ListenIP(network, nil)
		return err
	})
	enlarge(t, p.conn)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	t.Cleanup(func() { stop(); p.conn.Close(); p.sender.Wait(); p.receiver.Wait() })
	p.receiver.Go(func() { p.receive() })
	p.sender.Go(func() { p.send(ctx, o.every) })
	return p
}

// enlarge gives a socket room for all the answers that may come at once after a pause; the usual limit is some 500.
func enlarge(t *testing.T, conn syscall.Conn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
}

// send keeps to the rate: after a delay it catches up.
func (p *prober) send(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	begun := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for n := 0; n < int(time.Since(begun)/every) && ctx.Err() == nil; n = len(p.sent) {
			p.mu.Lock()
			seq := len(p.sent)
			p.sent, p.back = append(p.sent, time.Now()), append(p.back, 0)
			p.mu.Unlock()
			if _, err := p.conn.WriteToIP(p.request(seq), p.to); err != nil {
				p.failed = fmt.Errorf("send probe %d: %w", seq, err)
				return
			}
		}
	}
}

// between counts the probes sent after one moment and before another.
func (p *prober) between(from, to time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.sent {
		if t.After(from) && t.Before(to) {
			n++
		}
	}
	return n
}

// id is the identifier of a probe.
func (p *prober) id(seq int) uint16 {
	if p.fresh {
		return uint16(seq)
	}
	return 0x7e57
}

// The types of an echo's messages (RFC 792, RFC 4443).
const (
	echo4, reply4 = 8, 0
	echo6, reply6 = 128, 129
)

// request carries its number as payload; the 16 bits of the protocol's own would soon be used up. Of ICMPv6 the kernel makes the
// checksum.
func (p *prober) request(seq int) []byte {
	b := make([]byte, p.size)
	b[0] = echo4
	if p.to.IP.To4() == nil {
		b[0] = echo6
	}
	binary.BigEndian.PutUint16(b[4:], p.id(seq))
	binary.BigEndian.PutUint16(b[6:], uint16(seq))
	binary.BigEndian.PutUint64(b[8:], uint64(seq))
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

func (p *prober) receive() {
	b := make([]byte, 16<<10)
	for {
		n, _, err := p.conn.ReadFromIP(b)
		if err != nil {
			return
		}
		if n < 16 || b[0] != reply4 && b[0] != reply6 {
			continue
		}
		if seq := int(binary.BigEndian.Uint64(b[8:])); binary.BigEndian.Uint16(b[4:]) == p.id(seq) {
			p.answered(seq, time.Now())
		}
	}
}

func (p *prober) answered(seq int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq >= len(p.sent) {
		return
	}
	if p.back[seq] != 0 {
		p.seen.Duplicated++
		return
	}
	p.back[seq] = now.Sub(p.sent[seq])
	p.seen.Late = max(p.seen.Late, p.back[seq])
	if !p.seen.last.IsZero() {
		p.seen.Gap = max(p.seen.Gap, now.Sub(p.seen.last))
	}
	p.seen.last = now
}

const (
	// answerLimit is how long after the last probe its answer may come; a machine in software emulation on a busy computer has
	// taken four seconds.
	answerLimit = 10 * time.Second
	// overtaken is how much later than the answer to the last probe that to an earlier one may come.
	overtaken = time.Second
)

// end stops sending, waits for the answers that may still come, and says what was seen. The sender ends before the answers
// are counted: a probe that it had in hand would find the connection closed, and be taken for lost on the way.
func (p *prober) end(t *testing.T) probes {
	t.Helper()
	seen, err := p.finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// finish is end with the prober's own failure as an error.
func (p *prober) finish(ctx context.Context) (probes, error) {
	p.stop()
	p.sender.Wait()
	if p.failed != nil {
		return probes{}, p.failed
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	_ = poll(ctx, 10*time.Millisecond, func() (bool, error) { return p.complete(), nil }) // else they are lost
	p.conn.Close()
	p.receiver.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Sent = len(p.sent)
	for i, r := range p.back {
		if r == 0 {
			p.seen.Lost++
			p.seen.When = append(p.seen.When, p.sent[i])
			continue
		}
		p.seen.Answers = append(p.seen.Answers, p.sent[i].Add(r))
	}
	return p.seen, nil
}

// complete reports whether no answer is to be expected any more.
func (p *prober) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.back, 0) {
		return true
	}
	last := len(p.back) - 1
	return p.back[last] != 0 && time.Since(p.sent[last].Add(p.back[last])) > overtaken
}

// TestAProbeInHandAtTheEndIsNotLost ends probers that are always behind their rate, and so always have a probe in hand.
func TestAProbeInHandAtTheEndIsNotLost(t *testing.T) {
	l := bare(t, Options{Name: "hand", Hosts: 1})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: netip.MustParseAddr("10.10.0.1")})
	for range 20 {
		p := probe(t, l, "a", netip.MustParseAddr("127.0.0.1"), time.Microsecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := poll(ctx, time.Millisecond, func() (bool, error) { return p.between(time.Time{}, time.Now()) > 100, nil })
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if seen := p.end(t); seen.Lost != 0 {
			t.Errorf("%s; the lost ones were sent %v", seen, seen.When)
		}
	}
}
