package lab

import (
	"context"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcp is test 4: a bulk transfer to a guest through a move. What is sent arrives whole; the exchanges of the other tests' connections are
// the other half of it.
func (r *rig) tcp(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "bulk", Host: "h2", Pause: guestPause})
	for range r.times(2, 50) {
		d := r.deliver(t, "a", g)
		m := migrate(t, r.Lab, "bulk", r.next(t, "bulk"))
		sent, info := d.end(t)
		got := <-d.got
		t.Logf("a bulk transfer of %d MB: guest paused %.1f ms, %d segments sent again, nothing came for %v at most; %d relayed, %d lost",
			sent.bytes>>20, m.Status.Result.GuestPauseMs, info.Total_retrans, got.silence.Round(time.Millisecond), m.Status.Result.Relayed, m.Status.Result.Lost)
		if got.err != nil || got.bytes != sent.bytes || got.sum != sent.sum {
			t.Errorf("%d bytes came of %d, whole: %v (%v)", got.bytes, sent.bytes, got.sum == sent.sum, got.err)
		}
		stall := r.figures.add("04", "silence of a bulk transfer, less the guest's pause", "ms", milli(got.silence)-m.Status.Result.GuestPauseMs)
		stall.asked, stall.met = "median ≤ 5", func(f *figure) bool { return f.quantile(0.5) <= 5 }
		r.figures.add("04", "segments of a bulk transfer sent again", "", float64(info.Total_retrans))
		r.figures.add("04", "frames of a bulk transfer that the move lost and counted", "", float64(m.Status.Result.Lost))
		settled(t, r.Lab, "bulk", m.Spec.To)
	}
}

// delivery is a bulk transfer under way.
type delivery struct {
	conn *net.TCPConn
	stop context.CancelFunc
	done chan transfer
	got  chan transfer
}

// transfer is what one end has seen of it.
type transfer struct {
	bytes   int64
	sum     uint32
	silence time.Duration
	err     error
}

// deliver begins to send from one guest to another as fast as it goes.
func (r *rig) deliver(t *testing.T, from string, to *Guest) *delivery {
	t.Helper()
	d := &delivery{done: make(chan transfer, 1), got: make(chan transfer, 1)}
	var listener net.Listener
	within(t, r.GuestNamespace(to.Name), func() (err error) {
		listener, err = net.Listen("tcp", ":5001")
		return err
	})
	defer listener.Close()
	d.conn = dial(t, r.Lab, from, netip.AddrPortFrom(address(to), 5001).String()).(*net.TCPConn)
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { d.got <- takeIn(accepted) }()
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	t.Cleanup(stop)
	go func() { d.done <- d.send(ctx) }()
	return d
}

// send sends until ctx ends.
func (d *delivery) send(ctx context.Context) (sent transfer) {
	block := make([]byte, 256<<10)
	source := rand.NewChaCha8([32]byte{4})
	for ctx.Err() == nil && sent.err == nil {
		_, _ = source.Read(block)
		var n int
		n, sent.err = d.conn.Write(block)
		sent.bytes += int64(n)
		sent.sum = crc32.Update(sent.sum, crc32.IEEETable, block[:n])
	}
	return sent
}

// takeIn reads until the other end closes.
func takeIn(conn net.Conn) (got transfer) {
	defer conn.Close()
	block := make([]byte, 256<<10)
	last := time.Now()
	for {
		got.err = conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := conn.Read(block)
		got.silence, last = max(got.silence, time.Since(last)), time.Now()
		got.bytes += int64(n)
		got.sum = crc32.Update(got.sum, crc32.IEEETable, block[:n])
		if err == io.EOF {
			return got
		}
		if err != nil {
			got.err = err
			return got
		}
	}
}

// end stops sending, and says what was sent and what the kernel says of the connection.
func (d *delivery) end(t *testing.T) (transfer, *unix.TCPInfo) {
	t.Helper()
	d.stop()
	sent := <-d.done
	var info *unix.TCPInfo
	raw, err := syscall.Conn(d.conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { info, sent.err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	}
	if err != nil || sent.err != nil {
		t.Fatal(err, sent.err)
	}
	if err := d.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return sent, info
}
