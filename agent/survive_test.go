package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// build makes the program, once for each version.
func build(tb testing.TB, version string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "weft")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path, "../cmd/weft")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build weft: %v\n%s", err, out)
	}
	return path
}

// newLab makes a lab that goes with the test.
func newLab(t *testing.T, name, binary string, hosts int) *lab.Lab {
	t.Helper()
	if err := lab.NeedRoot(); err != nil {
		t.Fatal(err)
	}
	name += "-" + strconv.Itoa(os.Getpid()%1000) // beside another run, or what one that was killed left
	l, err := lab.Up(t.Context(), lab.Options{Name: name, Dir: "/run/weft/test-" + name, Binary: binary, Hosts: hosts}, t.Logf)
	t.Cleanup(func() {
		if l == nil {
			return
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(l.Dir, "*", "agent.log"))
			for _, log := range logs {
				text, _ := os.ReadFile(log)
				t.Logf("%s:\n%s", log, text[max(0, len(text)-8000):])
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// put writes objects through a host's agent, and waits until they are in force everywhere.
func put(t *testing.T, l *lab.Lab, objects ...fabric.Object) {
	t.Helper()
	if err := l.Apply(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
}

// blueSwitch is a switch with a subnet.
func blueSwitch() *fabric.Switch {
	return &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "blue"},
		Spec: fabric.SwitchSpec{Type: fabric.Private, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}},
	}
}

// stream sends numbered datagrams from one guest to another, at an even pace, until it is stopped.
type stream struct {
	sent   atomic.Uint64
	stop   atomic.Bool
	done   sync.WaitGroup
	failed error
	to     nic.Namespace
	before uint64
	sink   int
}

// rate is how many datagrams a stream sends in a second.
const rate = 100_000

// startStream begins a stream between two guests.
func startStream(t *testing.T, from, to nic.Namespace, addr netip.Addr) *stream {
	t.Helper()
	s := &stream{to: to}
	if err := to.Do(s.openSink); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.halt(); unix.Close(s.sink) })
	s.before = s.delivered(t)
	ready := make(chan error)
	s.done.Go(func() {
		s.failed = from.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: addr.As4()})
			}
			ready <- err
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return s.blast(fd)
		})
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return s
}

// openSink opens a socket that counts every datagram as an error and keeps none, so that no reader can be too slow.
func (s *stream) openSink() (err error) {
	if s.sink, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	refuse := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: 1, Filter: &refuse[0]}
	return errors.Join(unix.SetsockoptSockFprog(s.sink, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program),
		unix.Bind(s.sink, &unix.SockaddrInet4{Port: 9}))
}

// blast sends in batches of 16.
func (s *stream) blast(fd int) error {
	const batch = 16
	payload := make([]byte, 18)
	vector := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	messages := make([]struct {
		Hdr unix.Msghdr
		Len uint32
		_   [4]byte
	}, batch)
	for i := range messages {
		messages[i].Hdr.Iov, messages[i].Hdr.Iovlen = &vector, 1
	}
	start := time.Now()
	for !s.stop.Load() {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("send: %w", errno)
		}
		sent := s.sent.Add(uint64(n))
		if wait := time.Until(start.Add(time.Duration(sent) * time.Second / rate)); wait > 0 {
			pause := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&pause, nil)
		}
	}
	return nil
}

// halt ends the stream.
func (s *stream) halt() {
	s.stop.Store(true)
	s.done.Wait()
}

// delivered is how many datagrams have reached the receiving guest's sockets.
func (s *stream) delivered(t *testing.T) (n uint64) {
	t.Helper()
	err := s.to.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if fields[0] != "Udp:" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			for i, name := range names {
				if name == "InErrors" {
					n, err = strconv.ParseUint(fields[i], 10, 64)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// waitFor fails the test when done does not hold in time.
func waitFor(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}

// isReady asks the host's agent whether it has everything in force.
func isReady(ctx context.Context, l *lab.Lab, host fabric.HostID) bool {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Socket(host))
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weft/readyz", nil)
	if err != nil {
		return false
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func TestPacketsSurviveTheAgent(t *testing.T) {
	first, second := build(t, "v1"), build(t, "v2")
	l := newLab(t, "survive", first, 2)
	put(t, l, blueSwitch())
	for name, host := range map[string]fabric.HostID{"a": "h1", "b": "h2"} {
		if _, err := l.AddGuest(t.Context(), lab.GuestOptions{Name: name, Host: host, Switch: "blue", Kind: lab.Veth}, t.Logf); err != nil {
			t.Fatal(err)
		}
	}
	b, err := l.Guest("b")
	if err != nil {
		t.Fatal(err)
	}
	s, started := startStream(t, l.GuestNamespace("a"), l.GuestNamespace("b"), b.NIC.Addresses[0].Addr()), time.Now()
	restart := func(host fabric.HostID, away uint64) {
		t.Helper()
		if err := l.KillAgent(host); err != nil {
			t.Fatal(err)
		}
		until := s.sent.Load() + away
		waitFor(t, "packets without the agent", time.Minute, func() bool { return s.sent.Load() >= until })
		if err := l.StartAgent(host); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		waitFor(t, "the agent of "+string(host), 10*time.Second, func() bool { return isReady(t.Context(), l, host) })
		t.Logf("the agent of %s was ready %s after its start", host, time.Since(begun).Round(time.Millisecond))
	}
	restart("h1", 10_000)
	restart("h2", 10_000)
	if err := os.Rename(second, first); err != nil { // the new binary takes the old one's place
		t.Fatal(err)
	}
	restart("h1", 10_000)
	restart("h2", 10_000)
	for s.sent.Load() < 1_000_000 {
		restart("h1", 50_000)
	}
	s.halt()
	if s.failed != nil {
		t.Fatal(s.failed)
	}
	sent, took := s.sent.Load(), time.Since(started)
	arrived := func() bool { return s.delivered(t)-s.before >= sent }
	for begun := time.Now(); !arrived() && time.Since(begun) < 2*time.Second; {
		runtime.Gosched() // the last packets are on their way
	}
	if n := s.delivered(t) - s.before; n != sent {
		t.Fatalf("%d of %d packets were lost", sent-n, sent)
	}
	t.Logf("%d packets, %.0f a second, none lost", sent, float64(sent)/took.Seconds())
}
