package datapath_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// loaderEnv makes the test binary a process that holds a datapath until it is killed.
const loaderEnv = "WEFT_TEST_LOADER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(loaderEnv); spec != "" {
		fmt.Fprintln(os.Stderr, hold(strings.Split(spec, " ")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hold loads the core and holds it; it returns only with an error.
func hold(spec []string) error {
	vtep, err := netip.ParseAddr(spec[1])
	if err != nil {
		return err
	}
	d, err := datapath.Load(context.Background(), datapath.Options{PinDir: spec[0], Underlay: "eth0", VTEP: vtep})
	if err != nil {
		return err
	}
	fmt.Println("loaded")
	for {
		if err := d.Verify(context.Background()); err != nil {
			return err
		}
		if _, err := d.Read(context.Background()); err != nil {
			return err
		}
	}
}

// startLoader runs the loader in a process of its own, until it holds the core.
func (h *host) startLoader() *exec.Cmd {
	h.tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), loaderEnv+"="+h.pinDir+" "+h.vtep.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.tb.Fatal(err)
	}
	if err := h.ns.Start(cmd); err != nil {
		h.tb.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "loaded\n" {
		h.tb.Fatalf("the loader says %q, %v", line, err)
	}
	return cmd
}

// stream sends numbered frames from one guest to another and counts what arrives, never more on the way than the queue
// of the receiver's device holds, so that whatever is missing was lost by the core.
type stream struct {
	from, to       *tapGuest
	frame          []byte
	sent, received atomic.Uint64
	stop, ended    atomic.Bool // the sender shall stop; it has
	wait           sync.WaitGroup
}

const window = 256

func startStream(from, to *tapGuest) *stream {
	s := &stream{from: from, to: to, frame: ip{protocol: protoUDP}.frame(int(from.port.MAC[5]), int(to.port.MAC[5]), false, udp(1, 2, data))}
	s.wait.Add(2)
	go func() {
		defer s.wait.Done()
		defer s.ended.Store(true)
		raw := append(make([]byte, 12), s.frame...)
		for !s.stop.Load() {
			if s.sent.Load()-s.received.Load() >= window {
				if !s.drained() {
					return
				}
				continue
			}
			if _, err := s.from.file.Write(raw); err != nil {
				s.from.tb.Errorf("send: %v", err)
				return
			}
			s.sent.Add(1)
		}
	}()
	go func() {
		defer s.wait.Done()
		buffer := make([]byte, 2000)
		for !s.ended.Load() || s.sent.Load() != s.received.Load() { // a frame is counted after it was sent
			if err := s.to.file.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				s.to.tb.Error(err)
				return
			}
			if _, err := s.to.file.Read(buffer); err != nil {
				s.stop.Store(true)
				return
			}
			s.received.Add(1)
		}
	}()
	return s
}

// drained waits until there is room in the window.
func (s *stream) drained() bool {
	for n := 0; s.sent.Load()-s.received.Load() >= window; n++ {
		if s.stop.Load() {
			return false
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1000}, nil)
	}
	return true
}

// end stops sending and returns what was sent and what was lost.
func (s *stream) end() (sent, lost uint64) {
	s.stop.Store(true)
	s.wait.Wait()
	return s.sent.Load(), s.sent.Load() - s.received.Load()
}

// past waits until so many frames have been sent.
func (s *stream) past(n uint64) {
	s.from.tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.sent.Load() < n && !s.stop.Load() {
		<-tick.C
	}
}

func TestNothingIsLostWhenTheLoaderDiesAndComesBack(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 2, 0)
	for _, h := range w.hosts {
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		h.Datapath = nil
	}
	first := w.hosts[0].startLoader()
	second := w.hosts[1].startLoader()
	traffic := startStream(a, b)
	traffic.past(50_000)
	for round := range uint64(4) {
		for i, cmd := range []**exec.Cmd{&first, &second} {
			(*cmd).Process.Kill()
			(*cmd).Wait()
			traffic.past(100_000 + round*100_000)
			*cmd = w.hosts[i].startLoader()
		}
	}
	traffic.past(500_000)
	for _, cmd := range []*exec.Cmd{first, second} {
		cmd.Process.Kill()
		cmd.Wait()
	}
	sent, lost := traffic.end()
	if sent < 500_000 || lost != 0 {
		for _, h := range w.hosts {
			ports, host := h.counters()
			t.Logf("%+v %+v", ports, host)
		}
		t.Fatalf("%d of %d frames were lost", lost, sent)
	}
	for _, h := range w.hosts {
		h.load()
	}
	s, err := inside{w.hosts[0]}.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := s.Ports[a.device]; p != a.port || len(s.FDB) != 2 || len(s.Neighbors) != 4 || len(s.Peers) != 1 {
		t.Fatalf("after all this the kernel holds %+v", s)
	}
}

func TestReplacingTheProgramsLosesNothing(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 2, 0)
	traffic := startStream(a, b)
	for n := range uint64(12) {
		traffic.past((n + 1) * 90_000)
		for _, h := range w.hosts {
			h.otherRelease(t)
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			h.load() // finds other programs and replaces them under load
		}
	}
	sent, lost := traffic.end()
	if sent < 1_000_000 || lost != 0 {
		for _, h := range w.hosts {
			ports, host := h.counters()
			t.Logf("%+v %+v", ports, host)
		}
		t.Fatalf("%d of %d frames were lost", lost, sent)
	}
	for _, h := range w.hosts {
		h.sameProgramsEverywhere(t)
	}
}

// otherRelease puts programs with another tag, but of the same behaviour, in the place of the core's: what a release
// before would have left.
func (h *host) otherRelease(tb testing.TB) {
	tb.Helper()
	spec, err := ebpf.LoadCollectionSpec("core_bpfel.o")
	if err != nil {
		tb.Fatal(err)
	}
	replace := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if m, err := ebpf.LoadPinnedMap(filepath.Join(h.pinDir, "maps", name), nil); err == nil {
			defer m.Close()
			replace[name], spec.Maps[name].MaxEntries = m, m.MaxEntries()
		}
	}
	for _, p := range spec.Programs {
		p.Instructions = slices.Insert(p.Instructions, 1, passThrough[0]) // sets the result, which every way out sets again
	}
	other, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		tb.Fatal(err)
	}
	defer other.Close()
	for _, name := range pinned(tb, h, "links") {
		_, program, _ := strings.Cut(name, "-")
		l, err := link.LoadPinnedLink(filepath.Join(h.pinDir, "links", name), nil)
		if err != nil {
			tb.Fatal(err)
		}
		if err := l.Update(other.Programs[program]); err != nil {
			tb.Fatal(err)
		}
		l.Close()
	}
	for name, p := range other.Programs {
		path := filepath.Join(h.pinDir, "progs", name)
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
		if err := p.Pin(path); err != nil {
			tb.Fatal(err)
		}
	}
}

// sameProgramsEverywhere checks that each link runs the pinned program of its name.
func (h *host) sameProgramsEverywhere(tb testing.TB) {
	tb.Helper()
	for _, name := range pinned(tb, h, "links") {
		_, program, _ := strings.Cut(name, "-")
		p, err := ebpf.LoadPinnedProgram(filepath.Join(h.pinDir, "progs", program), nil)
		if err != nil {
			tb.Fatal(err)
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			tb.Fatal(err)
		}
		id, _ := info.ID()
		l, err := link.LoadPinnedLink(filepath.Join(h.pinDir, "links", name), nil)
		if err != nil {
			tb.Fatal(err)
		}
		attached, err := l.Info()
		l.Close()
		if err != nil || attached.Program != id {
			tb.Fatalf("link %s runs program %d, pinned is %d, %v", name, attached.Program, id, err)
		}
	}
}

func TestAMapThatLostItsNameIsNotUsedOn(t *testing.T) {
	for _, lost := range []string{"slots_v1", "ports_v1", "config_v1"} {
		t.Run(lost, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			h := w.hosts[0]
			a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(h.pinDir, "maps", lost)); err != nil {
				t.Fatal(err)
			}
			h.load()
			h.sameProgramsEverywhere(t)
			if links := pinned(t, h, "links"); len(links) != 4+2*4 {
				t.Fatalf("the core is off some devices: %v", links)
			}
			a.gate(datapath.Closed, 1)
			if got := h.gateOf(t, a.device); got != datapath.Closed {
				t.Fatalf("gate %d, want closed", got)
			}
			a.expectDrop(tracing.ReasonPortDisabled, ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)))
			b.silent()
			h.apply(datapath.Change{Put: datapath.State{Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1500}}}})
			w.plug(&a.station)
			w.plug(&b.station)
			a.gate(datapath.Open, 2)
			a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)))
			if b.receive() == nil {
				t.Fatal("put again, the ports do not pass")
			}
		})
	}
}
