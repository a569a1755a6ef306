package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store/server"
	"github.com/weftnet/weft/tracing"
)

// Pauses of the agent's loops.
const (
	// checkEvery is how often the kernel is read again (reliability goal I3).
	checkEvery = time.Second
	// patience is how long the store may take at the start before the last good state is put in force without it.
	patience = 2 * time.Second
	// retryEvery is how long to wait before trying again what failed beside the datapath.
	retryEvery = time.Second
)

// registerGap is the least time between two looks at what the host is: each lists all its devices and addresses.
const registerGap = 500 * time.Millisecond

// follow hands every snapshot of the store to the keeper.
func (a *Agent) follow(ctx context.Context) error {
	late := time.AfterFunc(patience, func() { a.keeper.resume(ctx) })
	defer late.Stop()
	for ctx.Err() == nil {
		err := a.store.FollowFrom(ctx, a.keeper.last, func(snap *fabric.Snapshot) {
			late.Stop()
			a.mu.Lock()
			a.newest, a.heard = snap, time.Now()
			a.mu.Unlock()
			a.keeper.accept(ctx, snap)
		})
		if err != nil && ctx.Err() == nil {
			a.trouble("etcd", err)
			pause(ctx, retryEvery)
		}
	}
	return nil
}

// check reads the kernel again every second.
func (a *Agent) check(ctx context.Context) error {
	return every(ctx, checkEvery, func() {
		a.keeper.check(ctx)
		a.trouble("restore", a.store.Held())
	})
}

// register keeps this host's record in the fabric as the host is.
func (a *Agent) register(ctx context.Context) error {
	for ctx.Err() == nil {
		change := a.news.wait()
		err := a.registerOnce(ctx)
		a.trouble("register", err)
		if err != nil {
			pause(ctx, retryEvery)
			continue
		}
		pause(ctx, registerGap)
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(10 * time.Second): // the underlay's MTU may have changed
		}
	}
	return nil
}

// registerOnce writes the record where it differs.
func (a *Agent) registerOnce(ctx context.Context) error {
	snap := a.Latest()
	if snap == nil {
		return nil
	}
	want, err := a.record()
	if err != nil {
		return err
	}
	if known := snap.Hosts[a.config.Host]; known != nil && reflect.DeepEqual(known.Spec, want.Spec) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.reports.ReportHost(ctx, want); err != nil {
		return fmt.Errorf("register this host in the fabric: %w", err)
	}
	a.log.Info("the host is registered", tracing.KeyHost, a.config.Host, "mtu", want.Spec.UnderlayMTU)
	// The record comes back with the next snapshot; asking again before that would write it twice.
	a.await(ctx, func() bool {
		known := a.Latest().Hosts[a.config.Host]
		return known != nil && reflect.DeepEqual(known.Spec, want.Spec)
	})
	return nil
}

// record is what this host is.
func (a *Agent) record() (*fabric.Host, error) {
	mtu, err := a.machine.MTU(a.config.Underlay.Device)
	if err != nil {
		return nil, fmt.Errorf("look at the underlay: %w", err)
	}
	networks, err := a.networks()
	if err != nil {
		return nil, fmt.Errorf("look at the host's networks: %w", err)
	}
	capacity, err := a.capacity()
	if err != nil {
		return nil, err
	}
	return &fabric.Host{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindHost},
		Metadata: fabric.Metadata{Name: string(a.config.Host)},
		Spec:     fabric.HostSpec{VTEP: a.config.Underlay.Address, UnderlayMTU: mtu, Capacity: capacity, API: a.config.Listen, Server: a.config.Server(), Networks: networks},
	}, nil
}

// capacity is what the underlay's NIC sends at most: what was told, else the speed of its link; 0 when neither is known.
func (a *Agent) capacity() (fabric.Amount, error) {
	if told := a.config.Underlay.Capacity; told != "" {
		return fabric.ParseAmount(told)
	}
	_, nics, err := a.machine.Survey(func(device string) bool { return device != a.config.Underlay.Device })
	if err != nil {
		return 0, fmt.Errorf("look at the speed of the underlay: %w", err)
	}
	for _, n := range nics {
		if n.Name == a.config.Underlay.Device {
			return fabric.Amount(n.Speed) * 1_000_000, nil
		}
	}
	return 0, nil
}

// await waits until done says so; it reports whether it did before ctx ended.
func (a *Agent) await(ctx context.Context, done func() bool) bool {
	for {
		change := a.news.wait()
		if done() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
		}
	}
}

// Latest is the newest wanted state this host knows; nil before the first.
func (a *Agent) Latest() *fabric.Snapshot {
	a.mu.Lock()
	newest := a.newest
	a.mu.Unlock()
	if newest == nil {
		return a.keeper.last
	}
	return newest
}

// runEtcd runs this host's member of the fleet's etcd. A member that fails is started again: the others, and the
// datapath, do not need this one.
func (a *Agent) runEtcd(ctx context.Context) error {
	m := a.config.Etcd.Embedded
	if m == nil {
		return nil
	}
	for ctx.Err() == nil {
		err := a.member(ctx, m)
		if ctx.Err() != nil {
			return nil
		}
		a.trouble("member", fmt.Errorf("this host's etcd member does not run: %w; it is tried again", err))
		pause(ctx, 5*retryEvery)
	}
	return nil
}

// member runs the member once.
func (a *Agent) member(ctx context.Context, m *EmbeddedEtcd) error {
	s, err := server.Start(server.Options{
		Name: m.Name, DataDir: m.DataDir, ClientURL: m.ClientURL, PeerURL: m.PeerURL, InitialCluster: m.InitialCluster,
		CAFile: a.config.TLS.CA, CertFile: a.config.TLS.Cert, KeyFile: a.config.TLS.Key, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.trouble("member", nil)
	if err := s.Run(ctx); err != nil {
		return err
	}
	return errors.New("it ended")
}

// every calls do at once and then in each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pause waits, but not longer than ctx lives.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
