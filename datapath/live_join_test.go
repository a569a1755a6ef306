package datapath_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
	"github.com/weftnet/weft/tracing"
)

// joinFrames is how many frames are sent over each underlay: WEFT_JOIN, or few; make soak sends many.
func joinFrames(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("WEFT_JOIN"), "6000"))
	if err != nil || n < 1 {
		t.Fatalf("WEFT_JOIN: give a number of frames: %v", err)
	}
	return n
}

// joinRig is two hosts, the wire between them, and what the two guests know of their frames, by label: the ground truth.
type joinRig struct {
	*world
	from, to *tapGuest

	mu       sync.Mutex
	sent     map[uint64]bool
	received map[uint64]int
	frames   int
	recorded [2]map[uint64]bool
}

// Watch makes a host record.
func (r *joinRig) Watch(ctx context.Context, host fabric.HostID, s tracing.LiveSession) error {
	return r.at(host).Watch(ctx, s)
}

// Unwatch ends the session on a host.
func (r *joinRig) Unwatch(ctx context.Context, host fabric.HostID, s tracing.LiveSession) error {
	return r.at(host).Unwatch(ctx, s.ID)
}

// Watched is what a host has recorded; the labels are noted.
func (r *joinRig) Watched(ctx context.Context, host fabric.HostID, s tracing.LiveSession) (tracing.LiveBatch, error) {
	b, err := r.at(host).Watched(ctx, s.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range b.Runs {
		r.recorded[slices.Index(joinHosts, host)][run.Label] = true
	}
	return b, err
}

var joinHosts = []fabric.HostID{"h0", "h1"}

func (r *joinRig) at(host fabric.HostID) *host { return r.hosts[slices.Index(joinHosts, host)] }

func newJoinRig(t *testing.T, ipv6 bool) *joinRig {
	w := newWorld(t, 2, ipv6)
	w.load()
	return &joinRig{
		world: w, from: w.tap(w.hosts[0], 1, 0), to: w.tap(w.hosts[1], 2, 0), sent: map[uint64]bool{}, received: map[uint64]int{},
		recorded: [2]map[uint64]bool{{}, {}},
	}
}

// impaired makes the wire to the second host lose and double one frame of a hundred.
func (r *joinRig) impaired(t *testing.T) {
	dir := bpffs(t, "impair")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.in(r.under, func() error { return impair.Set("u1", dir, impair.Rates{Loss: 0.01, Duplicate: 0.01}) })
	t.Cleanup(func() {
		if err := r.under.Do(func() error { return impair.Clear("u1", dir) }); err != nil {
			t.Error(err)
		}
	})
}

// joinFrame is frame n: of each protocol that has a label over both families, none like another. Of TCP only what no host cuts or joins.
func joinFrame(n int) []byte {
	unique := binary.BigEndian.AppendUint64(nil, uint64(n)*0x9E3779B97F4A7C15)
	v6 := n&1 == 1
	src, dst := address4(1), address4(2)
	if v6 {
		src, dst = address6(1), address6(2)
	}
	switch n >> 1 % 4 {
	case 0:
		return ip{protocol: protoUDP}.frame(1, 2, v6, udp(4, 5, append(unique, make([]byte, n%1000)...)))
	case 1:
		s := tcp(src, dst, 0x10, nil, nil)
		copy(s[4:12], unique)
		return ip{protocol: unix.IPPROTO_TCP}.frame(1, 2, v6, s)
	case 2:
		echo := append([]byte{0, 1, byte(n >> 8), byte(n)}, unique...)
		if v6 {
			return ip{protocol: protoICMPv6}.frame(1, 2, v6, icmp6(src, dst, 128, echo...))
		}
		return ip{protocol: protoICMP}.frame(1, 2, v6, append([]byte{8, 0, 0, 0}, echo...))
	}
	return ip{protocol: protoUDP}.frame(1, 2, v6, udp(uint16(n), 53, unique))
}

// listen notes what the second guest receives.
func (r *joinRig) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if _, frame := r.to.receiveVnet(50 * time.Millisecond); frame != nil {
			r.mu.Lock()
			r.received[tracing.Label(keys[0], keys[1], vni, frame)]++
			r.frames++
			r.mu.Unlock()
		}
	}
}

// send sends frames as fast as the guest that receives them takes them, within the session's budget.
func (r *joinRig) send(t *testing.T, n int) {
	const batch = 200
	pace := time.NewTicker(15 * time.Millisecond)
	defer pace.Stop()
	for i := range n {
		frame := joinFrame(i)
		r.sent[tracing.Label(keys[0], keys[1], vni, frame)] = true
		r.from.send(frame)
		if i%batch == batch-1 {
			<-pace.C
			r.drained(t)
		}
	}
	r.drained(t)
}

// drained waits until the second guest has what was handed to it.
func (r *joinRig) drained(t *testing.T) {
	t.Helper()
	eventually(t, "the guest has read what it was sent", func() bool {
		ports, _ := r.hosts[1].counters()
		r.mu.Lock()
		defer r.mu.Unlock()
		return uint64(r.frames) == ports[r.to.port.Name].Tx.Frames
	})
}

// beyondDoubt waits until the hosts' clocks are known well enough that no frame that is sent from now on may seem older than one that
// was sent before: of what seems to be older than the session, or younger, nothing is told.
func beyondDoubt(t *testing.T, live *tracing.Live) {
	t.Helper()
	began := live.Report().Seconds
	eventually(t, "the clocks of both hosts are known", func() bool {
		got := live.Report()
		known := len(got.Hosts) == len(joinHosts)
		for _, h := range got.Hosts {
			known = known && h.WithinUs > 0 && got.Seconds-began > 3*h.WithinUs/1e6
		}
		return known
	})
}

// TestALiveTraceJoinsWhatTheWireLoses sends frames over a wire that loses one of a hundred and doubles another, and compares the
// answer of a session on both hosts, frame by frame, with what the guests know.
func TestALiveTraceJoinsWhatTheWireLoses(t *testing.T) {
	for name, ipv6 := range map[string]bool{"IPv4 underlay": false, "IPv6 underlay": true} {
		if ipv6 && os.Getenv("WEFT_JOIN") == "" {
			continue // the long form takes both
		}
		t.Run(name, func(t *testing.T) {
			r := newJoinRig(t, ipv6)
			r.from.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data))) // the hosts learn each other's MACs
			if r.to.receive() == nil {
				t.Fatal("the hosts do not reach each other")
			}
			r.frames = 1
			r.impaired(t)
			vteps := map[netip.Addr]fabric.HostID{r.hosts[0].vtep: "h0", r.hosts[1].vtep: "h1"}
			session := tracing.LiveSession{ID: 1, Every: true, MaxRate: tracing.MaxRecords, TTL: tracing.MaxSessionTime, What: "a test"}
			live, err := tracing.StartLive(t.Context(), r, tracing.LiveOptions{Session: session, For: time.Hour, Hosts: joinHosts, VTEPs: vteps})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { live.Run(t.Context()) })
			running.Go(func() { r.listen(ctx) })
			beyondDoubt(t, live)
			r.send(t, joinFrames(t))
			beyondDoubt(t, live)
			live.End(t.Context())
			stop()
			running.Wait()
			r.compare(t, live.Report())
		})
	}
}

// compare fails unless the answer is what the guests know.
func (r *joinRig) compare(t *testing.T, got tracing.LiveReport) {
	t.Helper()
	sent, received, doubled := uint64(len(r.sent)), uint64(len(r.received)), uint64(0)
	for _, n := range r.received {
		if n > 1 {
			doubled++
		}
	}
	t.Logf("%d sent, %d received, %d of them twice; told: %d, %d delivered, %d lost, %d twice, %d orphans, %d unknown", sent, received, doubled,
		got.Packets, got.Delivered, got.Lost, got.Duplicates, got.Orphans, got.Unknown)
	if sent != uint64(joinFrames(t)) || received == sent || doubled == 0 {
		t.Fatal("the frames are not all different, or the wire was not impaired")
	}
	if got.Packets != sent || got.Delivered != received || got.Lost != sent-received || got.Duplicates != doubled {
		t.Error("the answer is not what the guests know")
	}
	if others := got.Orphans + got.Unknown + got.Recut + got.Dropped + got.Overflow + got.Thinned; others != 0 {
		t.Errorf("%d frames are told of otherwise: %+v", others, got)
	}
	if len(got.Losses) != 1 || got.Losses[0].From != "h0" || got.Losses[0].To != "h1" {
		t.Errorf("lost: %+v, want all between the hosts", got.Losses)
	}
	if !maps.Equal(r.recorded[0], r.sent) || len(r.recorded[1]) != len(r.received) {
		t.Errorf("labels: %d of %d at the sender, %d of %d at the receiver", len(r.recorded[0]), len(r.sent), len(r.recorded[1]), len(r.received))
	}
	for label := range r.recorded[1] {
		if r.received[label] == 0 {
			t.Fatalf("label %#x was recorded and belongs to no frame that was received", label)
		}
	}
}
