// Package agent keeps one host as the fabric says: it turns the newest snapshot into the state its datapath must hold, puts
// that in force, reads it back from the kernel every second, and reports how far it is. It holds no authority: whatever it
// cannot decide from etcd, it leaves as it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/agent/services"
	"github.com/weftnet/weft/agent/trial"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/fabric/members"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/migration/libvirt"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/export"
)

// scope names this package's spans.
const scope = "github.com/weftnet/weft/agent"

// Agent is one host's agent.
type Agent struct {
	config   Config
	log      *slog.Logger
	lock     *lock
	identity *identity.Identity
	// etcdUser is who this host is to etcd.
	etcdUser *identity.Identity
	machine  machine
	keeper   *keeper
	lastGood *lastGood
	store    *store.Store
	// reports is where this host's words about itself go: into etcd, or to a host that may write there.
	reports   server.Reports
	members   *members.Members // nil where the host takes no part in the gossip
	telemetry *export.Telemetry
	events    *export.EventLog
	metrics   *export.Metrics
	prober    *prober
	live      *liveTracer
	trials    *trial.Guests
	moves     server.Moves // nil where the host may not write
	opened    openings
	rules     rulebook
	arrivals  *destinationPlane
	notify    notifier
	// news is told whenever something about the host may have changed.
	news    *news
	closers []func() error
	// served is set while the services of internal switches run.
	served  atomic.Pointer[services.Keeper]
	begun   time.Time
	libvirt *libvirt.Monitor
	balance balance
	// integrating keeps two changes of libvirt apart.
	integrating sync.Mutex

	mu sync.Mutex
	// newest is the latest snapshot from the store, held or not.
	newest *fabric.Snapshot
	// heard is when the store last showed that the host is up to date.
	heard time.Time
	// records are the files that copies of mirrors are written to, by the mirrors' names.
	records map[string]*recorder
	// troubles are what goes wrong beside the datapath, by subject.
	troubles map[string]string
	bequests *bequests
	asides   *asides
}

// frugal is how much garbage there may be for what is in use, in per cent: a hypervisor's memory is for its guests.
const frugal = 15

// Run is the agent of this host until ctx ends. What it has put into the kernel stays there.
func Run(ctx context.Context, c Config) error {
	if err := preflight(c); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" && c.Etcd.Embedded == nil {
		debug.SetGCPercent(frugal)
	}
	a, err := open(ctx, c, openMachine)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx), a.close())
}

// open prepares everything, in the order in which it depends on one another. Neither etcd nor any other host is waited for.
func open(ctx context.Context, c Config, openMachine func(context.Context, Config, *slog.Logger) (machine, error)) (a *Agent, err error) {
	a = &Agent{config: c, log: slog.New(export.LogHandler(slog.Default().Handler())), news: newNews(), troubles: map[string]string{}, records: map[string]*recorder{}, bequests: newBequests(), asides: newAsides(), begun: time.Now()}
	a.notify = notifier{log: a.log}
	opened := a // a return of nothing and an error leaves nothing in a
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
			a = nil
		}
	}()
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	if a.lock, err = takeLock(c.StateDir); err != nil {
		return nil, err
	}
	a.closeLater(a.lock.Close)
	for _, step := range []func(context.Context) error{a.openIdentity, a.openTelemetry} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if a.machine, err = openMachine(ctx, c, a.log); err != nil {
		return nil, err
	}
	a.closeLater(a.machine.close)
	for _, step := range []func(context.Context) error{a.openKeeper, a.openStore, a.openGossip, a.openProber} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	a.closeLater(func() error { a.keeper.remembering.Wait(); return nil })
	return a, nil
}

// closeLater has something closed when the agent ends, the last opened first.
func (a *Agent) closeLater(f func() error) { a.closers = append(a.closers, f) }

// close closes everything that was opened.
func (a *Agent) close() error {
	var all error
	for i := len(a.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, a.closers[i]())
	}
	a.closers = nil
	return all
}

func (a *Agent) openIdentity(context.Context) (err error) {
	if a.identity, err = identity.Load(a.config.TLS.files(), time.Now()); err != nil {
		return fmt.Errorf("load the host's certificate: %w", err)
	}
	if a.etcdUser, err = identity.Load(a.config.Etcd.TLS.files(), time.Now()); err != nil {
		return fmt.Errorf("load the host's certificate for etcd: %w", err)
	}
	return nil
}

// openTelemetry opens the ways out for spans and events, and the metrics.
func (a *Agent) openTelemetry(ctx context.Context) error {
	c := a.config
	t, err := export.Open(ctx, export.Options{Host: c.Host, Version: c.Version, Endpoint: c.OTLP.Endpoint, Dir: c.path("spans"), Logger: a.log})
	if err != nil {
		return err
	}
	a.telemetry = t
	a.closeLater(func() error {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return t.Close(last)
	})
	otel.SetTracerProvider(t.Provider())
	if a.events, err = export.OpenEventLog(c.path("events"), export.EventLogOptions{}); err != nil {
		return err
	}
	a.closeLater(a.events.Close)
	a.metrics = export.NewMetrics(reading{a}, c.Version, t)
	return nil
}

// openKeeper remembers what the agent before this one knew, and reads what the kernel holds.
func (a *Agent) openKeeper(ctx context.Context) error {
	known, err := loadLocal(a.config.StateDir, time.Now())
	lost := errors.Is(err, errDamaged)
	if err != nil && !lost {
		return err
	}
	if lost {
		a.emit(a.event("state.damaged", "", err.Error()))
	}
	a.lastGood = newLastGood(a.config.StateDir, a.log)
	last, err := a.lastGood.load(time.Now())
	if errors.Is(err, errDamaged) {
		a.emit(a.event("state.damaged", "", err.Error()))
	} else if err != nil {
		return err
	}
	a.keeper = &keeper{
		host: a.config.Host, vtep: a.config.Underlay.Address, stateDir: a.config.StateDir, plane: a.machine, log: a.log,
		tracer: a.telemetry.Provider().Tracer(scope), emit: a.emit, devices: a.machine.Devices, survey: a.machine.Survey, underlay: a.config.Underlay.Device, changed: a.news.tell,
		accepted: a.lastGood.keep, last: last, metrics: a.metrics,
	}
	return a.keeper.begin(ctx, known, lost)
}

// openStore prepares the connection to etcd, and decides how this host's own words get there.
func (a *Agent) openStore(ctx context.Context) error {
	s, err := store.Open(ctx, store.Options{Endpoints: a.config.Etcd.Endpoints, TLS: a.etcdUser.Client(), Logger: a.log})
	if err != nil {
		return err
	}
	a.store = s
	a.closeLater(s.Close)
	if a.config.Server() {
		a.reports = newLedger(s)
		return nil
	}
	m, err := newMessenger(a.config.Servers, a.identity.Client())
	if err != nil {
		return err
	}
	a.reports = m
	a.closeLater(func() error { m.Close(); return nil })
	return nil
}

// openProber makes ready for packet traces and for moves.
func (a *Agent) openProber(context.Context) error {
	a.prober = &prober{
		host: a.config.Host, keys: a.machine.labelKeys, probes: a.machine, telemetry: a.telemetry, tls: a.identity.Client(),
		latest: a.Latest, device: a.keeper.attachment, sessions: map[uint64]*session{},
	}
	a.closeLater(a.prober.Close)
	a.live = newLiveTracer(a.prober, a.machine.watches, a.named)
	a.closeLater(a.live.Close)
	a.arrivals, a.libvirt = &destinationPlane{Agent: a}, libvirt.NewMonitor(a.config.libvirt(), a.log)
	a.trials = trial.New(a)
	a.closeLater(a.trials.Close)
	if a.config.Server() {
		a.moves = &starter{store: a.store}
	}
	return nil
}

// run does the agent's work until ctx ends.
func (a *Agent) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		a.runEtcd, a.follow, a.check, a.watchDevices, a.watchPlane, a.report, a.register, a.lastGood.run, a.runGossip, a.runMoves, a.pruneMoves, a.watchCertificates,
		a.serve, a.serveMetrics, a.announce, a.keepFacades, a.keepLibvirt, a.hearLibvirt, a.keepServices, a.keepHostPorts, a.followUplinks, a.endUnconfirmed, a.watchUplinks, a.watchLinks, a.watchReach, a.keepRecords,
		a.sendEvents, a.keepSmall, a.keepKernelDrops, a.keepBalance,
	} {
		g.Go(func() error { return part(ctx) })
	}
	a.log.Info("the agent runs", tracing.KeyHost, a.config.Host, "version", a.config.Version)
	err := g.Wait()
	a.notify.stopping()
	return err
}

// emit writes an event to the host's log.
func (a *Agent) emit(e fabric.Event) {
	a.log.Info(e.Message, tracing.KeyEvent, e.Type, tracing.KeyObject, e.Object)
	if _, err := a.events.Append(e); err != nil {
		a.log.Error("an event was not kept", tracing.KeyEvent, e.Type, "error", err)
		return
	}
	a.metrics.Logged()
}

// sendEvents sends the events to the collector, where there is one. It is never in the way: what keeps it from sending is said, and the
// agent goes on.
func (a *Agent) sendEvents(ctx context.Context) error {
	c := a.config
	if c.OTLP.Endpoint == "" {
		return nil
	}
	s, err := export.NewEventSender(a.events, export.Options{Host: c.Host, Version: c.Version, Endpoint: c.OTLP.Endpoint, Logger: a.log})
	if err == nil {
		a.metrics.Sends(s)
		err = s.Run(ctx)
	}
	if err != nil {
		a.log.Error("events are not sent to the collector any more; weft events has them", "error", err)
	}
	return nil
}

// event is something that happened here now.
func (a *Agent) event(kind, object, message string) fabric.Event {
	return fabric.Event{Time: time.Now(), Host: a.config.Host, Type: kind, Object: object, Message: message}
}

// trouble remembers what goes wrong beside the datapath, or that it no longer does when err is nil.
func (a *Agent) trouble(subject string, err error) {
	a.mu.Lock()
	was := a.troubles[subject]
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == "" {
		delete(a.troubles, subject)
	} else {
		a.troubles[subject] = text
	}
	a.mu.Unlock()
	if was == text {
		return
	}
	if text != "" {
		a.log.Warn("trouble", "subject", subject, "error", text)
	}
	a.news.tell()
}

// troubled reports whether something goes wrong with the subject.
func (a *Agent) troubled(subject string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.troubles[subject] != ""
}

// forgetTroubles forgets those whose subject begins with the prefix and goes on with what does not stay.
func (a *Agent) forgetTroubles(prefix string, stays func(name string) bool) {
	a.mu.Lock()
	var gone []string
	for subject := range a.troubles {
		if name, ours := strings.CutPrefix(subject, prefix); ours && !stays(name) {
			gone = append(gone, subject)
		}
	}
	a.mu.Unlock()
	for _, subject := range gone {
		a.trouble(subject, nil)
	}
}

// path is a file of the state directory.
func (c *Config) path(name string) string { return c.StateDir + "/" + name }
