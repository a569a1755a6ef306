package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

var (
	addressA = netip.MustParseAddr("10.10.0.1")
	addressB = netip.MustParseAddr("10.10.0.2")
)

// dial opens a TCP connection from a guest that is a namespace.
func dial(t *testing.T, l *Lab, guest, address string) (conn net.Conn) {
	t.Helper()
	within(t, l.GuestNamespace(guest), func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 10*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo says something on a connection and wants it back.
func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("sent %q, got %q: %v", text, got, err)
	}
}

// echoServer answers in a guest that is a namespace.
func echoServer(t *testing.T, l *Lab, guest string, address string) {
	t.Helper()
	var listener net.Listener
	within(t, l.GuestNamespace(guest), func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
}

// move moves a guest of a bare lab by QMP alone and returns what the monitors of both ends told.
func move(t *testing.T, l *Lab, guest string, to fabric.HostID) (source, destination []string) {
	t.Helper()
	return moveHeard(t, l, guest, to, func(line string) { t.Log(line) })
}

// moveHeard is move with somebody who hears at once what the monitors tell: the end, src or dst, and what.
func moveHeard(t *testing.T, l *Lab, guest string, to fabric.HostID, hear func(string)) (source, destination []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g, err := l.Guest(guest)
	if err != nil {
		t.Fatal(err)
	}
	from := g.Instances[0]
	i, uri, err := l.await(ctx, g, to)
	if err != nil {
		t.Fatal(err)
	}
	bridge(t, l, i)
	i.Move, i.From = "m", from.Process
	if err := l.updateGuest(guest, func(g *Guest) { g.Instances = append(g.Instances, i) }); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 64)
	there, here := listen(t, ctx, i, "dst", told), listen(t, ctx, from, "src", told)
	defer there.Close()
	defer here.Close()
	if err := here.Migrate(ctx, uri); err != nil {
		t.Fatal(err)
	}
	for ends := 0; ends < 2; {
		select {
		case <-ctx.Done():
			t.Fatalf("the move did not end: source %v, destination %v", source, destination)
		case line := <-told:
			hear(line)
			side, what, _ := strings.Cut(line, " ")
			if side == "src" {
				source = append(source, what)
			} else {
				destination = append(destination, what)
			}
			if what == "MIGRATION completed" {
				ends++
			}
			if strings.HasSuffix(what, "failed") {
				t.Fatal(line)
			}
		}
	}
	if err := l.settle(ctx, guest, "m"); err != nil {
		t.Fatal(err)
	}
	return source, destination
}

// listen passes on what an instance's monitor tells, as lines that begin with the end it is.
func listen(t *testing.T, ctx context.Context, i Instance, end string, told chan<- string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(ctx, filepath.Join(i.Dir, agentMonitor), func(n qmp.Notice) {
		var data struct{ Status string }
		_ = json.Unmarshal(n.Data, &data)
		told <- strings.TrimSpace(end + " " + n.Name + " " + data.Status)
	})
	if err == nil {
		err = c.SetMigrationCapabilities(ctx, map[string]bool{"events": true})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPumpCarriesSuperPackets(t *testing.T) {
	l := bare(t, Options{Name: "super", Hosts: 2})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	guest(t, l, GuestOptions{Name: "b", Host: "h2", Address: addressB})
	result := iperf(t, l, "a", "b", addressB, "-t", "2")
	frame := meanFrame(t, l.GuestNamespace("b"))
	t.Logf("%.2f Gb/s, mean frame %d bytes", result/1e9, frame)
	if frame < 8000 {
		t.Errorf("the mean frame that reached the guest has %d bytes: super-packets were cut on the way", frame)
	}
}

// iperf runs one iperf3 between two namespace guests and returns bits a second received.
func iperf(t *testing.T, l *Lab, from, to string, address netip.Addr, more ...string) float64 {
	t.Helper()
	server := l.Command(t.Context(), to, "iperf3", "-s", "-1", "--forceflush")
	started, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := started.Read(make([]byte, 16)); err != nil { // it prints when it listens
		t.Fatal(err)
	}
	go io.Copy(io.Discard, started)
	out := run(t, l, from, append([]string{"iperf3", "-J", "-c", address.String()}, more...)...)
	server.Wait()
	var report struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return report.End.SumReceived.BitsPerSecond
}

// meanFrame is the mean size of the frames that eth0 of a namespace took in.
func meanFrame(t *testing.T, ns nic.Namespace) int {
	t.Helper()
	var bytes, packets int
	within(t, ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		_, numbers, _ := strings.Cut(string(b), "eth0:")
		_, err = fmt.Sscan(numbers, &bytes, &packets)
		return err
	})
	if packets == 0 {
		t.Fatalf("eth0 of %s took nothing in", ns.Name)
	}
	return bytes / packets
}

func TestPausedPumpLosesNothing(t *testing.T) {
	l := bare(t, Options{Name: "pause", Hosts: 1})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	g := guest(t, l, GuestOptions{Name: "b", Host: "h1", Address: addressB})
	echoServer(t, l, "b", ":7")
	conn := dial(t, l, "a", "10.10.0.2:7")
	echo(t, conn, "before")
	m, err := qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, labMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if state, err := g.Instances[0].state(short); err == nil {
		t.Fatalf("a second client was served on one monitor, state %s: QEMU serves one", state)
	}
	if s, err := m.Status(t.Context()); err != nil || s.Running || s.Status != "paused" {
		t.Fatalf("status %+v, %v", s, err)
	}
	if _, err := io.WriteString(conn, "during"); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 6)); n != 0 || err == nil {
		t.Fatalf("a paused guest answered %d bytes (%v)", n, err)
	}
	if err := m.Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
		t.Fatalf("what was sent during the pause did not come back: %v", err)
	}
}

func TestPumpMovesWithItsConnections(t *testing.T) {
	l := bare(t, Options{Name: "move", Hosts: 3})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	guest(t, l, GuestOptions{Name: "b", Host: "h2", Address: addressB, Pause: 50 * time.Millisecond})
	echoServer(t, l, "b", ":7")
	conn := dial(t, l, "a", "10.10.0.2:7")
	echo(t, conn, "on h2")
	source, destination := move(t, l, "b", "h3")
	echo(t, conn, "on h3")
	wantOrder(t, source, "MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION device", "MIGRATION completed")
	wantOrder(t, destination, "MIGRATION active", "RESUME", "MIGRATION completed")
	g, err := l.Guest("b")
	if err != nil || len(g.Instances) != 1 || g.Host() != "h3" {
		t.Fatalf("after the move: %+v, %v", g, err)
	}
	move(t, l, "b", "h2") // and back to where it was
	echo(t, conn, "on h2 again")
	if err := l.RemoveGuest(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if l.GuestNamespace("b").Exists() {
		t.Fatal("the removed guest's namespace is still there")
	}
}

// wantOrder checks that all these were told, in this order.
func wantOrder(t *testing.T, told []string, want ...string) {
	t.Helper()
	next := 0
	for _, line := range told {
		if next < len(want) && line == want[next] {
			next++
		}
	}
	if next < len(want) {
		t.Errorf("%q does not come where it should in %q", want[next], told)
	}
}

func TestPumpGoesOnWhenItsDestinationIsNotThere(t *testing.T) {
	l := bare(t, Options{Name: "fail", Hosts: 1})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	g := guest(t, l, GuestOptions{Name: "b", Host: "h1", Address: addressB})
	echoServer(t, l, "b", ":7")
	conn := dial(t, l, "a", "10.10.0.2:7")
	m, err := qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, agentMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, uri := range []string{"pump:/nonexistent", "tcp:10.240.0.1:1"} {
		err := m.Migrate(t.Context(), uri)
		if strings.HasPrefix(uri, "tcp") {
			if err == nil || !strings.Contains(err.Error(), "pump:SOCKET") {
				t.Fatalf("a pump took %s: %v", uri, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		err = poll(t.Context(), time.Millisecond, func() (bool, error) {
			s, err := m.Migration(t.Context())
			return s.Status == "failed" && s.Desc != "", err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	echo(t, conn, "still here")
}

func TestVirtualMachineBootsAnswersAndMoves(t *testing.T) {
	l := bare(t, Options{Name: "qemu", Hosts: 3})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	begun := time.Now()
	guest(t, l, GuestOptions{Name: "c", Host: "h2", Kind: QEMU, Address: netip.MustParseAddr("10.10.0.3")})
	t.Logf("booted after %.1f s", time.Since(begun).Seconds())
	run(t, l, "a", "ping", "-c", "2", "-i", "0.2", "-W", "5", "10.10.0.3")
	if out := run(t, l, "c", "ping", "-c", "1", "-W", "5", "10.10.0.1"); !strings.Contains(out, "1 packets received") {
		t.Fatalf("ping from inside said %q", out)
	}
	if out := run(t, l, "c", "sh", "-c", "hostname; ip -o link show eth0"); !strings.HasPrefix(out, "c\n") || !strings.Contains(out, "mtu 1450") {
		t.Fatalf("inside: %q", out)
	}
	var failed *ExitError
	if err := l.Exec(t.Context(), "c", []string{"sh", "-c", "echo \"it's $0\"; exit 7"}, Streams{}); !errors.As(err, &failed) || failed.Code != 7 {
		t.Fatalf("exit status 7 came as %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("enough"))
	defer cancel()
	if err := l.Exec(ctx, "c", []string{"sleep", "1000"}, Streams{}); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Fatalf("a command that was given up: %v", err)
	}
	stream, err := l.OpenStream(t.Context(), "a", netip.MustParseAddr("10.10.0.3"))
	if err != nil {
		t.Fatal(err)
	}
	move(t, l, "c", "h3")
	if seen, err := stream.Stop(); err != nil || seen.Exchanges < 2 {
		t.Fatalf("the stream saw %+v: %v", seen, err)
	} else {
		t.Logf("%+v", seen)
	}
	if out := run(t, l, "c", "echo", "moved"); out != "moved\n" {
		t.Fatalf("after the move it said %q", out)
	}
}
