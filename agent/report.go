package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/tracing/export"
)

const (
	// reportEvery is how often the status is repeated; its lease lasts for 10 s.
	reportEvery = 3 * time.Second
	// reportGap is the least time between two reports, so that a burst of changes does not become a burst of writes.
	reportGap = 5 * time.Millisecond
)

// report tells the fabric how this host is: at once when that changes, and again before the lease runs out.
func (a *Agent) report(ctx context.Context) error {
	var said fabric.HostStatus
	var at time.Time
	for ctx.Err() == nil {
		change := a.news.wait()
		if now := a.Status(); time.Since(at) >= reportEvery || !reflect.DeepEqual(now, said) {
			err := a.say(ctx, now)
			if ctx.Err() != nil {
				return nil
			}
			a.trouble("report", err)
			if err != nil {
				pause(ctx, retryEvery)
				continue
			}
			said, at = now, time.Now()
			pause(ctx, reportGap)
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(time.Until(at.Add(reportEvery))):
		}
	}
	return nil
}

// say reports the status once.
func (a *Agent) say(ctx context.Context, s fabric.HostStatus) error {
	ctx, cancel := context.WithTimeout(ctx, reportEvery)
	defer cancel()
	if err := a.reports.ReportStatus(ctx, a.config.Host, s); err != nil {
		return fmt.Errorf("report this host's status: %w", err)
	}
	a.mu.Lock()
	a.heard = time.Now()
	a.mu.Unlock()
	return nil
}

// Status is how this host is now, without counters.
func (a *Agent) Status() fabric.HostStatus {
	s := a.keeper.status()
	contested(&s, a.machine.Contests())
	s.Generation = a.joined(s.Generation)
	a.mu.Lock()
	for _, subject := range slices.Sorted(maps.Keys(a.troubles)) {
		s.Problems = append(s.Problems, a.troubles[subject])
	}
	a.mu.Unlock()
	s.Version, s.Capabilities, s.Moves = a.config.Version, a.machine.capabilities, migration.Forms()
	s.Receives = len(a.config.Hooks.Incoming) > 0
	s.Kernel, _ = kernelRelease() // it was asked at the start; a status without it is still one
	return s
}

// contested puts programs that others fight over into the status: while one is off, the host is not ready, and its port closed.
func contested(s *fabric.HostStatus, all []datapath.Contest) {
	s.Ports = slices.Clone(s.Ports)
	for _, c := range all {
		s.Problems = append(s.Problems, c.String())
		if c.Until.IsZero() {
			continue
		}
		s.Ready = false
		for i := range s.Ports {
			if p := &s.Ports[i]; p.Name == c.Port && c.Shut {
				p.State, p.Reason = fabric.PortClosed, c.String()
			}
		}
	}
}

// status is what the keeper has to say.
func (k *keeper) status() fabric.HostStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := fabric.HostStatus{Generation: k.inForce, Ready: k.inForce != 0 && k.failure == nil, Ports: k.ports(), NICs: k.reportNICs()}
	if k.snap == nil {
		s.Problems = append(s.Problems, "the wanted state is not known yet: etcd does not answer, and there is no last good state; check the fabric's etcd")
	} else {
		s.Problems = append(s.Problems, k.snap.Problems...)
	}
	if k.held != nil {
		s.Problems = append(s.Problems, k.held.reason())
	}
	if k.failure != nil {
		s.Problems = append(s.Problems, k.failed())
	}
	s.Problems = append(s.Problems, k.uplinkProblems()...)
	return s
}

// failed says what is not in force, why, and what is.
func (k *keeper) failed() string {
	text := k.failure.Error() + "; it is tried again by itself"
	if k.snap == nil || k.inForce == k.snap.Revision {
		return text
	}
	text = fmt.Sprintf("generation %d failed: %s", k.snap.Revision, text)
	if k.inForce == 0 { // this agent has seen nothing in force yet
		return text + "; what it does not reach stays as it is"
	}
	return fmt.Sprintf("%s; what it does not reach stays as in generation %d", text, k.inForce)
}

// recovered tells that what had failed is in force.
func (k *keeper) recovered() {
	if k.failure != nil {
		k.complaint = ""
		k.tell("generation.recovered", "host/"+string(k.host), fmt.Sprintf("Host %s has generation %d in force again.", k.host, k.snap.Revision))
	}
}

// asSentence begins a text as one, and ends it.
func asSentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] + "." }

// Ready says what is missing before the host does its work; nil when nothing is.
func (a *Agent) Ready(context.Context) error {
	for _, c := range a.machine.Contests() {
		if !c.Until.IsZero() {
			return errors.New(c.String())
		}
	}
	a.keeper.mu.Lock()
	defer a.keeper.mu.Unlock()
	switch {
	case a.keeper.failure != nil:
		return a.keeper.failure
	case a.keeper.inForce == 0:
		return fmt.Errorf("no wanted state is in force yet: etcd at %v has not answered", a.config.Etcd.Endpoints)
	}
	return nil
}

// announce tells systemd when the host is ready, and that it is alive.
func (a *Agent) announce(ctx context.Context) error {
	if !a.await(ctx, func() bool { return a.Ready(ctx) == nil }) {
		return nil
	}
	a.log.Info("the host is ready", "after", time.Since(a.begun).Round(time.Millisecond))
	a.notify.ready("The host is as the fabric says.")
	return a.notify.watch(ctx, a.keeper.alive)
}

// alive reports whether the keeper still takes turns.
func (k *keeper) alive(ctx context.Context) bool {
	answered := make(chan struct{})
	go func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-ctx.Done():
		return false
	}
}

// reading is the host as the metrics see it.
type reading struct{ agent *Agent }

// Reading is called for every scrape.
func (r reading) Reading(ctx context.Context) (export.Reading, error) {
	a := r.agent
	s := a.Status()
	counters, host, err := a.counters(ctx)
	if err != nil {
		return export.Reading{}, err
	}
	kernel, err := a.kernelDropsHere()
	if err != nil {
		return export.Reading{}, err
	}
	s.Ports = withKernel(counted(s.Ports, counters), kernel)
	out := export.Reading{Status: s, Drops: ofNoPort(hostDrops(host), kernel), PolicyAge: a.age()}
	if k := a.served.Load(); k != nil {
		out.Services = k.Counts()
	}
	copied, err := a.MirrorCounts(ctx)
	if err != nil {
		return export.Reading{}, err
	}
	for _, c := range copied {
		out.Mirrors = append(out.Mirrors, export.MirrorCount{Mirror: c.Name, Copied: c.Copied, Given: c.Given, Lost: c.Lost})
	}
	alive := a.Alive()
	if snap := a.Latest(); snap != nil {
		for id := range snap.Hosts {
			if id == a.config.Host {
				continue
			}
			out.PeersWanted++
			if alive[id] {
				out.Peers++
			}
		}
	}
	return out, nil
}

// age is how long ago the settings in force were last known to be the fabric's.
func (a *Agent) age() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.heard.IsZero() {
		return time.Since(a.begun)
	}
	return time.Since(a.heard)
}
