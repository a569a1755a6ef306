package datapath_test

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
)

// contest are guests of one host that send all they can to guests of another, by that host's only way out.
type contest struct {
	*world
	from, to [2]*station
}

func newContest(t *testing.T) *contest {
	c := &contest{world: newWorld(t, 2, false)}
	c.load()
	for i := range c.from {
		c.from[i], c.to[i] = c.veth(c.hosts[0], i+1), c.veth(c.hosts[1], i+11)
	}
	return c
}

// share tells the first host how its way out is shared.
func (c *contest) share(e datapath.Exit) {
	h := c.hosts[0]
	c.in(h.ns, func() error { return nic.SetQueueLength("eth0", 4000) }) // half a second: a guest that waits for a CPU leaves its queue full
	h.apply(datapath.Change{Put: datapath.State{Local: datapath.Local{VTEP: h.vtep, Exit: e}}})
}

// blast has a guest send so many streams of datagrams until the test ends.
func (c *contest) blast(t *testing.T, i, streams int) {
	t.Helper()
	for range streams {
		var conn net.Conn
		err := c.from[i].ns.Do(func() (err error) {
			conn, err = net.Dial("udp", netip.AddrPortFrom(address4(i+11), 9).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for packet := make([]byte, 1400); ; {
				if _, err := conn.Write(packet); err != nil && strings.Contains(err.Error(), "closed") {
					return
				}
			}
		}()
		t.Cleanup(func() { conn.Close(); <-done })
	}
}

// received waits until both guests have together received so many bytes more, and returns how many each.
func (c *contest) received(t *testing.T, bytes uint64) (of [2]float64) {
	t.Helper()
	now := func() (n [2]uint64) {
		ports, _ := c.hosts[1].counters()
		for i, s := range c.to {
			n[i] = ports[s.port.Name].Tx.Bytes
		}
		return n
	}
	before := now()
	for range 6 {
		if await(5*time.Second, func() bool { n := now(); return n[0]+n[1] >= before[0]+before[1]+bytes }) {
			break
		}
	}
	after := now()
	for i := range of {
		of[i] = float64(after[i] - before[i])
	}
	return of
}

const exitRate = 40e6

// TestAGuestHasItsMinimum has one guest with a minimum send beside one that sends by three times as many streams: without it, it would have a
// quarter.
func TestAGuestHasItsMinimum(t *testing.T) {
	c := newContest(t)
	c.unbalanced = true
	c.share(datapath.Exit{Capacity: exitRate, Host: exitRate / 20, Default: datapath.Least{Rate: exitRate / 10}})
	c.from[0].limit(datapath.Limits{Least: datapath.Least{Rate: exitRate * 3 / 4}})
	c.blast(t, 0, 4)
	c.blast(t, 1, 12)
	c.received(t, 2_000_000)
	of := c.received(t, 5_000_000)
	if part := of[0] / (of[0] + of[1]); part < 0.75*0.97 || part > 0.95 {
		t.Errorf("a guest with three quarters of the way out for certain had %.3f of it: %v bytes", part, of)
	}
	c.share(datapath.Exit{})
	if !await(10*time.Second, func() bool { c.verify(c.hosts[0]); return !strings.Contains(c.hosts[0].queueAt(t, "eth0"), "57f8:") }) {
		t.Errorf("nothing is shared any more, and at the NIC there is %q", c.hosts[0].queueAt(t, "eth0"))
	}
}

// TestWeightsShareWhatIsLeft compares what two guests get that send all they can, with their weights: while a third one's part is idle.
func TestWeightsShareWhatIsLeft(t *testing.T) {
	c := newContest(t)
	c.unbalanced = true
	c.share(datapath.Exit{Capacity: exitRate, Host: exitRate / 20, Default: datapath.Least{Weight: 20}})
	c.from[0].limit(datapath.Limits{Least: datapath.Least{Weight: 30}})
	c.from[1].limit(datapath.Limits{Least: datapath.Least{Weight: 10}})
	c.blast(t, 0, 16)
	c.blast(t, 1, 16)
	c.received(t, 2_000_000)
	of := c.received(t, 10_000_000)
	if ratio := of[0] / of[1]; ratio < 3*0.95 || ratio > 3*1.05 {
		t.Errorf("weights of 30 and 10 had %v bytes, %.3f to 1", of, ratio)
	}
}

// TestTheWayOutIsKeptAsItIsToBe takes classes away, replaces the agent, and finds somebody else's queueing discipline in the way.
func TestTheWayOutIsKeptAsItIsToBe(t *testing.T) {
	c := newContest(t)
	h, a := c.hosts[0], c.from[0]
	foreign := func(args ...string) {
		t.Helper()
		c.in(h.ns, func() error { return exec.Command("tc", append([]string{"qdisc"}, args...)...).Run() })
	}
	shared := datapath.Exit{Capacity: exitRate, Host: exitRate / 20, Default: datapath.Least{Rate: exitRate / 10}}
	foreign("add", "dev", "eth0", "root", "handle", "7:", "pfifo")
	err := h.ns.Do(func() error {
		return h.Apply(context.Background(), datapath.Change{Put: datapath.State{Local: datapath.Local{VTEP: h.vtep, Exit: shared}}})
	})
	if err == nil || !strings.Contains(err.Error(), "tc qdisc del dev eth0 root") {
		t.Errorf("where somebody else's queueing discipline is: %v", err)
	}
	foreign("del", "dev", "eth0", "root")
	c.verify(h)
	a.limit(datapath.Limits{Least: datapath.Least{Rate: exitRate / 2}, Out: datapath.Limit{Rate: 1e9, Burst: 1e8}})
	sees := func(when string) {
		t.Helper()
		before := h.exitOf(t, "57f8:3")
		a.run(t, "ping", "-c", "2", "-i", "0.05", address4(11).String())
		if sent := h.exitOf(t, "57f8:3"); sent == before || !strings.Contains(sent, "rate 20Mbit") {
			t.Errorf("%s the guest's class is %q, and was %q", when, sent, before)
		}
	}
	sees("at first")
	if host := h.exitOf(t, "57f8:1001"); !strings.Contains(host, "rate 2Mbit") {
		t.Errorf("the host's class is %q", host)
	}
	foreign("del", "dev", "eth0", "root")
	c.verify(h)
	sees("after somebody has taken it away")
	h.Close()
	h.load()
	sees("after the agent was replaced")
	state, err := h.Read(context.Background())
	if err != nil || state.Local.Exit != shared || state.Ports[a.device].Limits != a.port.Limits {
		t.Errorf("the new agent reads %+v, %+v: %v", state.Local.Exit, state.Ports[a.device].Limits, err)
	}
	h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{a.device: {}}}})
	if gone := h.exitOf(t, "57f8:3"); gone != "" {
		t.Errorf("the port is gone, and its class is %q", gone)
	}
}

// exitOf is what tc says of a class at the host's way out.
func (h *host) exitOf(tb testing.TB, class string) string {
	tb.Helper()
	var out []byte
	err := h.ns.Do(func() (err error) {
		out, err = exec.Command("tc", "-s", "class", "show", "dev", "eth0").CombinedOutput()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	for _, one := range strings.Split(string(out), "class htb ") {
		if strings.HasPrefix(one, class+" ") {
			return one
		}
	}
	return ""
}
