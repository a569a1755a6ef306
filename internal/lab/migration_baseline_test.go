package lab

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// baseline is how a network without weft hears that a guest has moved.
type baseline string

const (
	// learns: hosts joined by bridges, which learn where the guest is from its own announcement (RARP), as the best of those do that
	// learn, EVPN and OVN's activation among them.
	learns baseline = "learns from the guest's announcement"
	// told: the same hosts, whose bridges are told the moment that the guest runs: what a controller could do at best that hears of it
	// from the hypervisor.
	told baseline = "is told when the guest runs"
)

// baseline moves a guest of the same kind over hosts that are joined by a bridge, with the same probes.
func (r *rig) baseline(t *testing.T, how baseline, moves int) {
	t.Run(strings.ReplaceAll(string(how), " ", "-"), func(t *testing.T) {
		l := bare(t, Options{Name: "base", Hosts: 3})
		guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
		guest(t, l, GuestOptions{Name: "b", Host: "h2", Address: addressB, Pause: guestPause})
		for _, to := range []fabric.HostID{"h3", "h2"} { // so that every bridge has heard of it
			b := onBridges{t, l, how}
			b.move(to)
		}
		for n := range moves {
			b := onBridges{t, l, how}
			p := probe(t, l, "a", addressB, time.Millisecond)
			before := waitAnswers(t, p, 100)
			paused := b.move([]fabric.HostID{"h3", "h2"}[n%2])
			waitAnswers(t, p, before+100)
			seen := p.end(t)
			t.Logf("the network %s: guest paused %.1f ms, %s", how, milli(paused), seen)
			if seen.Lost == 0 {
				t.Errorf("a network that %s loses nothing in a pause of %v: the probes would not see a loss", how, paused)
			}
			r.lost("a bridge that "+string(how), passage{seen: seen, paused: milli(paused)})
		}
	})
}

// waitAnswers waits until so many probes have been answered, and returns how many are.
func waitAnswers(t *testing.T, p *prober, n int) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answers := 0
	err := poll(ctx, time.Millisecond, func() (bool, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		answers = 0
		for _, back := range p.back {
			if back != 0 {
				answers++
			}
		}
		return answers >= n, nil
	})
	if err != nil {
		t.Fatalf("%d answers instead of %d: %v", answers, n, err)
	}
	return answers
}

// onBridges is a bare lab whose bridges may be told where guest b is.
type onBridges struct {
	t   *testing.T
	l   *Lab
	how baseline
}

// move moves b by QMP alone, and returns how long it stood still.
func (b onBridges) move(to fabric.HostID) time.Duration {
	b.t.Helper()
	var mu sync.Mutex
	var stopped, ran time.Time
	hear := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		switch line {
		case "src STOP":
			stopped = time.Now()
		case "dst RESUME":
			ran = time.Now()
			if b.how == told {
				b.tell(to)
			}
		}
	}
	if b.how == told {
		b.tell(b.at())
	}
	moveHeard(b.t, b.l, "b", to, hear)
	mu.Lock()
	defer mu.Unlock()
	return ran.Sub(stopped)
}

// at is where b is.
func (b onBridges) at() fabric.HostID {
	g, err := b.l.Guest("b")
	if err != nil {
		b.t.Fatal(err)
	}
	return g.Host()
}

// tell has every bridge send frames for b towards this host, whatever it hears.
func (b onBridges) tell(to fabric.HostID) {
	g, err := b.l.Guest("b")
	if err != nil {
		b.t.Error(err)
		return
	}
	mac := g.NIC.MAC.String()
	put := func(ns nic.Namespace, port string) error {
		return ns.Do(func() error {
			out, err := exec.Command("bridge", "fdb", "replace", mac, "dev", port, "master", "static", "sticky").CombinedOutput()
			if err != nil {
				return errors.New(string(out))
			}
			return nil
		})
	}
	if err := errors.Join(put(b.l.HostNamespace(to), nic.TapName(g.Port())), put(b.l.underlay(), string(to))); err != nil {
		b.t.Error(err)
	}
	for _, host := range HostNames(b.l.Hosts) {
		if host == to {
			continue
		}
		if err := put(b.l.HostNamespace(host), "eth0"); err != nil {
			b.t.Error(err)
		}
	}
}
