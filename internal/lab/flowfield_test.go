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

// flowField is every connection between some sockets of a guest and some of another, of UDP.
type flowField struct {
	guest, peer   []*net.UDPConn
	lonely        *net.UDPConn // the guest's, by which it has asked nobody
	toGuest, toIt netip.Addr   // addresses of the guest and of the other

	mu sync.Mutex
	// asked and answered are the connections whose packet has come, by the guest's socket and the other's.
	asked, answered [][]bool
	nAsked, nBack   int
	strange         int // what came to the guest and belongs to no connection
}

// The first ports of both sides.
const (
	fieldHere  = 20_000
	fieldThere = 30_000
)

func newFlowField(t *testing.T, l *Lab, guest, peer *Guest, here, there int) *flowField {
	t.Helper()
	f := &flowField{toGuest: address(guest), toIt: address(peer), asked: grid(here, there), answered: grid(here, there)}
	f.guest = sockets(t, l, guest.Name, fieldHere, here)
	f.peer = sockets(t, l, peer.Name, fieldThere, there)
	f.lonely = sockets(t, l, guest.Name, fieldHere+here, 1)[0]
	go f.hear(f.lonely, func([]byte, int) { f.strange++ })
	for i, c := range f.guest {
		go f.hear(c, func(b []byte, from int) {
			n := int(binary.BigEndian.Uint32(b))
			if n != i*len(f.peer)+from-fieldThere {
				f.strange++
				return
			}
			f.nBack += firstTime(f.answered, n)
		})
	}
	for _, c := range f.peer {
		go f.hear(c, func(b []byte, _ int) { f.nAsked += firstTime(f.asked, int(binary.BigEndian.Uint32(b))) })
	}
	return f
}

func grid(a, b int) [][]bool {
	g := make([][]bool, a)
	for i := range g {
		g[i] = make([]bool, b)
	}
	return g
}

// firstTime notes a connection, and returns 1 the first time.
func firstTime(g [][]bool, n int) int {
	i, j := n/len(g[0]), n%len(g[0])
	if i >= len(g) || g[i][j] {
		return 0
	}
	g[i][j] = true
	return 1
}

func sockets(t *testing.T, l *Lab, guest string, first, n int) []*net.UDPConn {
	t.Helper()
	all := make([]*net.UDPConn, n)
	within(t, l.GuestNamespace(guest), func() (err error) {
		for i := range all {
			if all[i], err = net.ListenUDP("udp4", &net.UDPAddr{Port: first + i}); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(func() {
		for _, c := range all {
			c.Close()
		}
	})
	return all
}

func (f *flowField) hear(c *net.UDPConn, note func(b []byte, from int)) {
	b := make([]byte, 16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n == 4 {
			f.mu.Lock()
			note(b, int(from.Port()))
			f.mu.Unlock()
		}
	}
}

// chunk is how many packets are on their way at once: no queue on the way is so short.
const chunk = 200

// ask opens every connection.
func (f *flowField) ask(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	f.asked, f.nAsked = grid(len(f.guest), len(f.peer)), 0
	f.mu.Unlock()
	f.each(t, f.asked, &f.nAsked, func(i, j int, b []byte) error {
		_, err := f.guest[i].WriteToUDPAddrPort(b, netip.AddrPortFrom(f.toIt, uint16(fieldThere+j)))
		return err
	})
	if f.nAsked != len(f.guest)*len(f.peer) {
		t.Fatalf("%d of %d connections could be opened", f.nAsked, len(f.guest)*len(f.peer))
	}
}

// answer sends one packet back on each, and returns how many connections it came by.
func (f *flowField) answer(t *testing.T) int {
	t.Helper()
	f.mu.Lock()
	f.answered, f.nBack = grid(len(f.guest), len(f.peer)), 0
	f.mu.Unlock()
	f.each(t, f.answered, &f.nBack, func(i, j int, b []byte) error {
		_, err := f.peer[j].WriteToUDPAddrPort(b, netip.AddrPortFrom(f.toGuest, uint16(fieldHere+i)))
		return err
	})
	return f.nBack
}

// each sends a packet on each connection, and again on those where none came: a queue may have been full, a rule denies again.
func (f *flowField) each(t *testing.T, came [][]bool, count *int, send func(i, j int, b []byte) error) {
	t.Helper()
	for range 5 {
		f.mu.Lock()
		due := *count // how many are to have come but for those on their way
		f.mu.Unlock()
		n := 0
		for i := range came {
			for j := range came[i] {
				f.mu.Lock()
				there := came[i][j]
				f.mu.Unlock()
				if there {
					continue
				}
				if err := send(i, j, binary.BigEndian.AppendUint32(nil, uint32(i*len(f.peer)+j))); err != nil {
					t.Fatal(err)
				}
				due++
				if n++; n%chunk == 0 {
					due -= f.settle(t, count, due-chunk, 20*time.Millisecond)
				}
			}
		}
		f.settle(t, count, len(f.guest)*len(f.peer), 500*time.Millisecond)
	}
}

// settle waits until so many have come, or none has for so long, and returns how many are missing.
func (f *flowField) settle(t *testing.T, count *int, want int, patience time.Duration) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	last, since := -1, time.Now()
	_ = poll(ctx, time.Millisecond, func() (bool, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if *count != last {
			last, since = *count, time.Now()
		}
		return last >= want || time.Since(since) > patience, nil
	})
	return max(0, want-last)
}

// denied sends the guest what belongs to no connection: it must not come.
func (f *flowField) denied(t *testing.T) error {
	t.Helper()
	for j := range f.peer {
		if _, err := f.peer[j].WriteToUDPAddrPort(make([]byte, 4), netip.AddrPortFrom(f.toGuest, uint16(fieldHere+len(f.guest)))); err != nil {
			return err
		}
	}
	f.answer(t) // which comes after it
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.strange > 0 {
		return fmt.Errorf("the guest was reached by %d packets that belong to no connection of its", f.strange)
	}
	return nil
}
