package datapath_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// tapGuest is a guest whose NIC is in this process: it sends and receives frames one by one.
type tapGuest struct {
	station
	tb   testing.TB
	file *os.File
}

// vnet is the header before a tap's frame (linux/virtio_net.h).
type vnet struct {
	Flags, Type                           uint8
	HeaderLen, Size, CsumStart, CsumAt, _ uint16
}

const (
	needsCsum = 1
	gsoTCP4   = 1
	gsoTCP6   = 4
	gsoUDPL4  = 5
)

// tap plugs guest number n into the host by a tap whose reader takes the offloads.
func (w *world) tap(h *host, n int, offload int) *tapGuest {
	w.tb.Helper()
	g := w.bareTap(h, n, offload)
	w.plug(&g.station)
	return g
}

// bareTap makes the guest and tells nobody.
func (w *world) bareTap(h *host, n int, offload int) *tapGuest {
	w.tb.Helper()
	g := &tapGuest{tb: w.tb, station: station{port: newPort(n, datapath.Tap), device: fmt.Sprintf("tap%d", n), host: h}}
	w.in(h.ns, func() (err error) {
		g.file, err = nic.OpenTap(g.device, nic.TapOptions{MTU: 1500, Offload: offload, NoIPv6: true})
		return err
	})
	w.tb.Cleanup(func() { g.file.Close() })
	return g
}

// send sends a frame without offloads.
func (g *tapGuest) send(frame []byte) {
	g.tb.Helper()
	g.sendVnet(vnet{}, frame)
}

// sendVnet sends a frame with its vnet header.
func (g *tapGuest) sendVnet(h vnet, frame []byte) {
	g.tb.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		g.tb.Fatal(err)
	}
	b.Write(frame)
	if _, err := g.file.Write(b.Bytes()); err != nil {
		g.tb.Fatalf("send %d bytes from %s: %v", len(frame), g.port.Name, err)
	}
}

// receive waits for the next frame; nil when none comes within a second.
func (g *tapGuest) receive() []byte {
	g.tb.Helper()
	_, frame := g.receiveVnet(time.Second)
	return frame
}

// silent fails when a frame waits for the guest. It is asked after the counters have said that the frame under test ended.
func (g *tapGuest) silent() {
	g.tb.Helper()
	if _, frame := g.receiveVnet(time.Millisecond); frame != nil {
		g.tb.Fatalf("%s has received %d bytes: % x", g.port.Name, len(frame), frame[:min(len(frame), 80)])
	}
}

func (g *tapGuest) receiveVnet(wait time.Duration) (h vnet, frame []byte) {
	g.tb.Helper()
	buffer := make([]byte, 70000)
	if err := g.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		g.tb.Fatal(err)
	}
	n, err := g.file.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return h, nil
	}
	if err != nil {
		g.tb.Fatal(err)
	}
	if err := binary.Read(bytes.NewReader(buffer), binary.LittleEndian, &h); err != nil {
		g.tb.Fatal(err)
	}
	return h, buffer[nic.VnetHeader:n]
}

// pending takes a frame that waits already; nil when none does.
func (g *tapGuest) pending() []byte {
	g.tb.Helper()
	raw, err := g.file.SyscallConn()
	if err != nil {
		g.tb.Fatal(err)
	}
	buffer := make([]byte, 70000)
	n := 0
	if err := g.file.SetReadDeadline(time.Time{}); err != nil {
		g.tb.Fatal(err)
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buffer)
		return true
	})
	if err != nil {
		g.tb.Fatal(err)
	}
	if n <= nic.VnetHeader {
		return nil
	}
	return buffer[nic.VnetHeader:n]
}

// counters reads the host's counters.
func (h *host) counters() (map[fabric.PortID]datapath.Counters, datapath.HostCounters) {
	h.tb.Helper()
	ports, err := h.Counters(context.Background())
	if err != nil {
		h.tb.Fatal(err)
	}
	host, err := h.Host(context.Background())
	if err != nil {
		h.tb.Fatal(err)
	}
	return ports, host
}

// eventually waits for a condition, at most five seconds.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	if !await(5*time.Second, ok) {
		tb.Fatalf("waited five seconds for this: %s", what)
	}
}

// await looks again and again whether a condition holds, until it does or the time is over, and reports which.
func await(limit time.Duration, ok func() bool) bool {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for deadline := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}

// conserved fails unless every frame of every port and of the host's tunnels is accounted for.
func (w *world) conserved() {
	w.tb.Helper()
	for i, h := range w.hosts {
		if h.Datapath == nil || w.unbalanced {
			continue
		}
		report := ""
		balanced := func() bool {
			report = ""
			ports, host := h.counters()
			for name, c := range ports {
				report += imbalance(string(name), c)
			}
			report += imbalance("the underlay", host.Underlay) + imbalance("the tunnel", host.Tunnel) + imbalance("nowhere", host.Nowhere)
			for device, c := range host.Uplinks {
				report += imbalance("uplink "+device, c)
			}
			return report == ""
		}
		if !await(5*time.Second, balanced) {
			w.tb.Errorf("host %d: in ≠ out + drops + consumed:%s", i, report)
		}
	}
}

func imbalance(name string, c datapath.Counters) string {
	in, out := c.Unexplained()
	if in == 0 && out == 0 && c.Waiting == 0 {
		return ""
	}
	return fmt.Sprintf("\n%s: %d in, %d out unexplained, %d wait: %+v", name, in, out, c.Waiting, c)
}

// drops is how many frames from the guest were dropped for a reason.
func (g *station) drops(r tracing.Reason) uint64 {
	ports, _ := g.host.counters()
	return ports[g.port.Name].DropsIn[r]
}

// expectDrop sends the frame and fails unless it is dropped for the reason, and for none else.
func (g *tapGuest) expectDrop(r tracing.Reason, frame []byte) {
	g.tb.Helper()
	before, _ := g.host.counters()
	g.send(frame)
	after, _ := g.host.counters()
	b, a := before[g.port.Name], after[g.port.Name]
	if a.Rx.Frames != b.Rx.Frames+1 {
		g.tb.Fatalf("%d frames were met, want 1", a.Rx.Frames-b.Rx.Frames)
	}
	for _, reason := range tracing.Reasons() {
		want := b.DropsIn[reason]
		if reason == r {
			want++
		}
		if got := a.DropsIn[reason]; got != want {
			g.tb.Errorf("drops for %s: %d, want %d", reason, got-b.DropsIn[reason], want-b.DropsIn[reason])
		}
	}
}

// receiveIf receives when asked to.
func (g *tapGuest) receiveIf(asked bool) []byte {
	if !asked {
		return nil
	}
	return g.receive()
}

// hostRun runs a command in the guest's host.
func (g *tapGuest) hostRun(command ...string) string {
	g.tb.Helper()
	return (&station{ns: g.host.ns}).run(g.tb, command...)
}
