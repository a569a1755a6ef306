package datapath_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/tracing"
)

// hasSent sends so many bytes by one TCP connection; it returns how many had been received after which time when all were sent, and how many
// segments were sent again.
func hasSent(tb testing.TB, from, to *station, bytes string) (received float64, took time.Duration, again int) {
	tb.Helper()
	to.run(tb, "iperf3", "-s", "-1", "-D")
	eventually(tb, "iperf3 listens", func() bool { return to.listens(tb, "5201") })
	var report struct {
		End struct {
			Sent struct {
				Seconds     float64 `json:"seconds"`
				Retransmits int     `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				Seconds float64 `json:"seconds"`
				Bytes   float64 `json:"bytes"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(from.run(tb, "iperf3", "-c", address4(2).String(), "-n", bytes, "-J")), &report); err != nil {
		tb.Fatal(err)
	}
	return report.End.Received.Bytes, time.Duration(report.End.Received.Seconds * float64(time.Second)), report.End.Sent.Retransmits
}

// TestWhatIsBeyondARateWaits sends more than the kernel lets through at once, and less than may wait: nothing is lost, and all of it
// takes the time that the rate says, at least. Without the queue either it would arrive at once, or some of it not at all.
func TestWhatIsBeyondARateWaits(t *testing.T) {
	for claim, out := range map[string]bool{"what a guest sends": true, "what a guest receives": false} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			h := w.hosts[0]
			from, to := w.veth(h, 1), w.veth(h, 2)
			const rate, bytes, atOnce = 80e6, 20_000_000, 400_000
			limited, limits := to, datapath.Limits{In: datapath.Limit{Rate: rate, Burst: 8 * 4 * bytes}}
			if out {
				limited, limits = from, datapath.Limits{Out: limits.In}
			}
			limited.limit(limits)
			received, took, again := hasSent(t, from, to, "20000000")
			if least := time.Duration(8 * (received - 2*atOnce) / rate * float64(time.Second)); took < least || received < bytes/2 {
				t.Errorf("%.0f bytes took %v at %.0f bit/s, want at least %v", received, took, rate, least)
			}
			ports, _ := h.counters()
			c := ports[limited.port.Name]
			if drops := c.DropsOut[tracing.ReasonRateLimited] + c.DropsIn[tracing.ReasonRateLimited]; drops != 0 || again != 0 {
				t.Errorf("%d frames were dropped and %d sent again, though all had room to wait", drops, again)
			}
			where, want := to.device, "qdisc tbf 57f7:"
			if out {
				where, want = datapath.ShaperDevice, "qdisc htb 57f7:"
			}
			if now := h.queueAt(t, where); !strings.HasPrefix(now, want) {
				t.Errorf("at %s there is %q, want %s", where, now, want)
			}
			limited.limit(datapath.Limits{})
			w.verify(h)
			if now := h.queueAt(t, to.device) + h.classes(t); strings.Contains(now, "57f7:") {
				t.Errorf("the rate is gone, and there is still %q", now)
			}
		})
	}
}

// limit puts limits in force on a station's port.
func (s *station) limit(l datapath.Limits) {
	s.port.Limits = l
	s.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{s.device: s.port}}})
}

// TestWhatSomebodyElseQueuesByStays gives a rate to a port at whose device there is a queueing discipline of its owner's: that one stays,
// and the rate is held by drops alone.
func TestWhatSomebodyElseQueuesByStays(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	from, to := w.veth(h, 1), w.veth(h, 2)
	w.in(h.ns, func() error {
		return exec.Command("tc", "qdisc", "add", "dev", to.device, "root", "handle", "7:", "pfifo").Run()
	})
	to.port.Limits.In = datapath.Limit{Rate: 10e6, Burst: 8 * 200_000}
	h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{to.device: to.port}}})
	hasSent(t, from, to, "1000000")
	if now := h.queueAt(t, to.device); !strings.HasPrefix(now, "qdisc pfifo 7:") {
		t.Errorf("at the device there is %q, want what its owner put there", now)
	}
	if ports, _ := h.counters(); ports[to.port.Name].DropsOut[tracing.ReasonRateLimited] == 0 {
		t.Error("1 MB at once met a rate with a burst of 200 kB, and nothing was dropped")
	}
}

// queueAt is what tc says of the queueing discipline of a device.
func (h *host) queueAt(tb testing.TB, device string) string {
	tb.Helper()
	var out []byte
	err := h.ns.Do(func() (err error) {
		out, err = exec.Command("tc", "qdisc", "show", "dev", device, "root").CombinedOutput()
		return err
	})
	if err != nil {
		tb.Fatalf("tc qdisc show dev %s: %v\n%s", device, err, out)
	}
	return string(out)
}

// classes is what tc says of the queues that what guests send waits in.
func (h *host) classes(tb testing.TB) string {
	tb.Helper()
	var out []byte
	err := h.ns.Do(func() (err error) {
		out, err = exec.Command("tc", "-s", "class", "show", "dev", datapath.ShaperDevice).CombinedOutput()
		return err
	})
	if err != nil && !strings.Contains(string(out), "Cannot find device") {
		tb.Fatalf("tc class show: %v\n%s", err, out)
	}
	return string(out)
}
