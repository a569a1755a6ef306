package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// keepRecords writes the copies of mirrors into files that have their file here.
func (a *Agent) keepRecords(ctx context.Context) error {
	defer func() {
		for name := range a.recorders() {
			a.endRecord(name)
		}
	}()
	begun := false
	for ctx.Err() == nil {
		change := a.news.wait()
		if sinks, known := a.keeper.files(); known {
			a.setRecords(ctx, sinks, !begun)
			begun = true
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(checkEvery):
		}
	}
	return nil
}

// recordAgain is how long a file that could not be written is left alone.
const recordAgain = 30 * time.Second

// files are the mirrors whose copies are seen here and are to be written; false while the host knows nothing.
func (k *keeper) files() (map[string]*fabric.Mirror, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snap == nil {
		return nil, false
	}
	found := map[string]*fabric.Mirror{}
	for name, m := range k.snap.Mirrors {
		if s, here := k.have.Sinks[m.Spec.VNI]; here && s.Listen && m.Spec.Sink.File != nil && m.Spec.Sink.File.Host == k.host {
			found[name] = m
		}
	}
	return found, true
}

// setRecords begins and ends files. After a start of the agent those that are there are continued.
func (a *Agent) setRecords(ctx context.Context, wanted map[string]*fabric.Mirror, again bool) {
	failed := map[string]bool{}
	for name, r := range a.recorders() {
		switch why := r.failure(); {
		case wanted[name] == nil:
			a.endRecord(name)
		case why == nil:
		case time.Since(r.at()) < recordAgain:
			a.trouble("mirror "+name, fmt.Errorf("%w: nothing is written; see to it, it is tried again within %v", why, recordAgain))
		default:
			a.endRecord(name)
			failed[name] = true
		}
	}
	running := a.recorders()
	for name, m := range wanted {
		if running[name] != nil {
			continue
		}
		r, err := a.startRecorder(ctx, m, datapath.ListenDevice(name), again || failed[name])
		a.trouble("mirror "+name, err)
		if err == nil {
			a.mu.Lock()
			a.records[name] = r
			a.mu.Unlock()
		}
	}
}

// recorders are those that run.
func (a *Agent) recorders() map[string]*recorder {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.records)
}

func (a *Agent) endRecord(name string) {
	a.mu.Lock()
	r := a.records[name]
	delete(a.records, name)
	a.mu.Unlock()
	if r != nil {
		r.Close()
	}
	a.trouble("mirror "+name, nil)
}

// MirrorCounts is what mirrors have copied here, and what has reached their sinks here.
func (a *Agent) MirrorCounts(ctx context.Context) ([]api.MirrorCount, error) {
	counts, err := a.machine.Mirrors(ctx)
	if err != nil {
		return nil, fmt.Errorf("count what mirrors copy: %w", err)
	}
	snap, recorders := a.Latest(), a.recorders()
	all := []api.MirrorCount{}
	if snap == nil {
		return all, nil
	}
	for name, m := range snap.Mirrors {
		c, there := counts[m.Spec.VNI]
		if !there {
			continue
		}
		one := api.MirrorCount{Name: name, Seen: c.Seen, Copied: c.Copied, Given: c.Given, GivenBytes: c.GivenBytes, Lost: c.Lost}
		if m.Spec.Sink.Port == "" && snap.SinkHost(m) == a.config.Host {
			one.Device = datapath.ListenDevice(name)
		}
		if r := recorders[name]; r != nil {
			written, lost, ended := r.state()
			one.File, one.FileBytes, one.Full = r.path, uint64(written), errors.Is(ended, errFull)
			one.Lost += lost
		}
		all = append(all, one)
	}
	return all, nil
}
