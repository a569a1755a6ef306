package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
)

// plain makes hosts and underlay only, without bridges.
func plain(t *testing.T, o Options) *Lab {
	t.Helper()
	if err := NeedRoot(); err != nil {
		t.Fatal(err)
	}
	o.Name = own(o.Name)
	o.Bare, o.Dir = true, "/run/weft/test-"+o.Name
	l, err := Up(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// pair is a UDP socket on each of two hosts.
type pair struct {
	from, to net.PacketConn
	sent     *int
}

func newPair(t *testing.T, l *Lab, from, to fabric.HostID) pair {
	t.Helper()
	return pair{from: socket(t, l, from), to: socket(t, l, to), sent: new(int)}
}

func socket(t *testing.T, l *Lab, h fabric.HostID) (c net.PacketConn) {
	t.Helper()
	within(t, l.HostNamespace(h), func() (err error) {
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(l.VTEP(h), 0).String())
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// send sends one datagram and returns how long it took; ok is false when it had not come within the limit.
func (p pair) send(t *testing.T, limit time.Duration) (took time.Duration, ok bool) {
	t.Helper()
	*p.sent++
	text := fmt.Sprint(*p.sent)
	begun := time.Now()
	if _, err := p.from.WriteTo([]byte(text), p.to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	p.to.SetReadDeadline(begun.Add(limit))
	for got := make([]byte, 16); ; {
		n, _, err := p.to.ReadFrom(got)
		if err != nil || string(got[:n]) == text { // others were late for an earlier limit
			return time.Since(begun), err == nil
		}
	}
}

// eventually sends until a datagram comes.
func (p pair) eventually(t *testing.T) {
	t.Helper()
	for range 50 {
		if _, ok := p.send(t, 100*time.Millisecond); ok {
			return
		}
	}
	t.Fatal("nothing comes through")
}

func TestCutHostIsAloneUntilHealed(t *testing.T) {
	l := plain(t, Options{Name: "cut", Hosts: 3})
	p, others := newPair(t, l, "h1", "h2"), newPair(t, l, "h1", "h3")
	p.eventually(t)
	if err := l.Cut("h2"); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.send(t, 200*time.Millisecond); ok {
		t.Error("a datagram reached a host that is cut off")
	}
	others.eventually(t)
	if err := l.Heal("h2"); err != nil {
		t.Fatal(err)
	}
	p.eventually(t)
	if err := l.Cut("h9"); err == nil || !strings.Contains(err.Error(), "h9") {
		t.Errorf("cutting an absent host: %v", err)
	}
}

func TestImpairedHostIsDeafNotMute(t *testing.T) {
	l := plain(t, Options{Name: "deaf", Hosts: 2})
	p := newPair(t, l, "h1", "h2")
	p.eventually(t)
	if err := l.Impair("h2", impair.Rates{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.send(t, 200*time.Millisecond); ok {
		t.Error("a datagram reached a host that loses everything")
	}
	pair{from: p.to, to: p.from, sent: p.sent}.eventually(t)
	if c, err := l.Impaired("h2"); err != nil || c.Lost == 0 {
		t.Errorf("counted %+v, %v", c, err)
	}
	if err := l.Impair("h2", impair.Rates{}); err != nil {
		t.Fatal(err)
	}
	p.eventually(t)
}

func TestUnderlayLosesFromTheStart(t *testing.T) {
	l := plain(t, Options{Name: "loss", Hosts: 2, Underlay: Underlay{Loss: 0.5}})
	before := impaired(t, l, "h2")
	everybody := &net.UDPAddr{IP: net.IPv4(10, 240, 0, 255), Port: 9} // needs no neighbour to be resolved
	from := socket(t, l, "h1")
	for range 400 {
		if _, err := from.WriteTo([]byte("x"), everybody); err != nil {
			t.Fatal(err)
		}
	}
	var lost, passed uint64
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := poll(ctx, time.Millisecond, func() (bool, error) {
		after := impaired(t, l, "h2")
		lost, passed = after.Lost-before.Lost, after.Passed-before.Passed
		return lost+passed >= 400, nil
	})
	if err != nil || lost < 100 || passed < 100 { // ten standard deviations of 10
		t.Errorf("of 400 datagrams through a loss of one half, %d passed and %d were lost (%v)", passed, lost, err)
	}
}

func impaired(t *testing.T, l *Lab, h fabric.HostID) impair.Counts {
	t.Helper()
	c, err := l.Impaired(h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDelayIsAddedToEveryFrame(t *testing.T) {
	const delay = 20 * time.Millisecond
	l := plain(t, Options{Name: "delay", Hosts: 2, Underlay: Underlay{Delay: delay}})
	p := newPair(t, l, "h1", "h2")
	p.eventually(t) // resolves neighbours
	took, ok := p.send(t, 5*time.Second)
	// To h2 a frame travels h1's cable and h2's.
	if !ok || took < 2*delay {
		t.Errorf("a datagram took %s (%v), the cables two times %s", took, ok, delay)
	}
}

func TestSegmentingUnderlayCutsLargeFrames(t *testing.T) {
	for segment, most := range map[bool]int{false: 65536, true: 1514} {
		l := plain(t, Options{Name: "cuts" + strconv.Itoa(most)[:1], Hosts: 2, Underlay: Underlay{Segment: segment}})
		mean := bulk(t, l)
		t.Logf("segment %v: mean frame on the wire %d bytes", segment, mean)
		if mean > most || !segment && mean < 8000 {
			t.Errorf("segment %v: the mean frame on the wire has %d bytes", segment, mean)
		}
	}
}

// bulk sends TCP from h1 to h2 and returns the mean size of the frames that h2's NIC took in.
func bulk(t *testing.T, l *Lab) int {
	t.Helper()
	var listener net.Listener
	within(t, l.HostNamespace("h2"), func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(l.VTEP("h2"), 5001).String())
		return err
	})
	defer listener.Close()
	go func() {
		var conn net.Conn
		err := l.HostNamespace("h1").Do(func() (err error) {
			conn, err = net.Dial("tcp", listener.Addr().String())
			return err
		})
		if err != nil {
			return
		}
		defer conn.Close()
		for range 512 {
			if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	total, buffer := 0, make([]byte, 1<<20)
	for {
		n, err := conn.Read(buffer)
		total += n
		if err != nil {
			break
		}
	}
	if total != 512*64<<10 {
		t.Fatalf("%d bytes arrived", total)
	}
	return meanFrame(t, l.HostNamespace("h2"))
}
