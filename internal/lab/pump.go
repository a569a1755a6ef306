package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// PumpConfig is what a pump is started with, as a JSON file. Descriptor 3 is the host's tap; descriptor 4 the guest's,
// unless the pump waits for a guest.
//
// A pump is to its guest, a network namespace whose NIC is a tap, what a hypervisor is to a virtual machine: it copies
// frames between the two taps, stops when told, and hands the guest over to another pump, with all of the guest's TCP
// state alive, since the guest's kernel is the one we run on.
type PumpConfig struct {
	Guest string     `json:"guest"`
	MAC   fabric.MAC `json:"mac"`
	// Monitors are unix sockets that speak QMP.
	Monitors []string `json:"monitors"`
	// Incoming is the unix socket on which a guest is awaited; empty when the guest is here.
	Incoming string `json:"incoming,omitempty"`
	// Pause is how long the guest stands still between STOP and RESUME of a migration, besides what the hand-over takes.
	Pause time.Duration `json:"pause,omitempty"`
	// Copy is how long the guest runs on after a migration has begun, as one does whose memory is copied.
	Copy time.Duration `json:"copy,omitempty"`
}

// The descriptors a pump is started with.
const (
	pumpHostTap  = 3
	pumpGuestTap = 4
)

// Run states and migration states, in QEMU's words (qapi/run-state.json, qapi/migration.json).
const (
	stateRunning  = "running"
	statePaused   = "paused"
	stateIncoming = "inmigrate"
	stateFinish   = "finish-migrate"
	statePost     = "postmigrate"

	moveNone      = "none"
	moveSetup     = "setup"
	moveActive    = "active"
	movePre       = "pre-switchover"
	moveDevice    = "device"
	moveCompleted = "completed"
	moveFailed    = "failed"
	moveCancelled = "cancelled"
)

// pump is one guest's backend.
type pump struct {
	config  PumpConfig
	monitor *monitor
	quit    context.CancelFunc
	work    errgroup.Group // migrations under way

	mu       sync.Mutex
	state    string
	move     string
	reason   string          // why the last migration failed
	caps     map[string]bool // migration capabilities that were switched on
	guest    int             // the guest's tap, -1 when the guest is elsewhere
	wire     *wire           // set while running
	stopped  time.Time       // when the last migration stopped the guest
	downtime time.Duration
	proceed  chan struct{} // closed by migrate-continue
	cancel   context.CancelFunc
}

// RunPump is a pump's whole life: it returns when told to quit, by QMP or SIGTERM.
func RunPump(ctx context.Context, configFile string) error {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()
	b, err := os.ReadFile(configFile)
	if err != nil {
		return fmt.Errorf("start pump: %w", err)
	}
	p := &pump{state: statePaused, move: moveNone, caps: map[string]bool{}, guest: pumpGuestTap, quit: cancel}
	if err := json.Unmarshal(b, &p.config); err != nil {
		return fmt.Errorf("start pump: read %s: %w", configFile, err)
	}
	p.monitor = &monitor{commands: p.commands(), clients: map[*monitorClient]struct{}{}}
	group, ctx := errgroup.WithContext(ctx)
	for _, path := range p.config.Monitors {
		group.Go(func() error { return p.monitor.serve(ctx, path) })
	}
	if p.config.Incoming != "" {
		p.guest, p.state = -1, stateIncoming
		listener, err := p.listen()
		if err != nil {
			return err
		}
		group.Go(func() error { return p.receive(ctx, listener) })
	} else if err := p.cont(); err != nil {
		return err
	}
	group.Go(func() error { <-ctx.Done(); return p.halt() })
	return errors.Join(group.Wait(), p.work.Wait())
}

// halt stops copying for good.
func (p *pump) halt() error {
	p.mu.Lock()
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.stop(stateFinish, false)
	return nil
}

// cont starts copying.
func (p *pump) cont() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wire != nil {
		return nil
	}
	if p.guest < 0 {
		return fmt.Errorf("the guest %s is not here", p.config.Guest)
	}
	w, err := joinTaps(pumpHostTap, p.guest)
	if err != nil {
		return err
	}
	p.wire, p.state = w, stateRunning
	return nil
}

// stop stops copying; it reports whether the guest ran.
func (p *pump) stop(state string, tell bool) bool {
	p.mu.Lock()
	w := p.wire
	p.wire = nil
	if w != nil {
		w.Stop()
		p.state = state
	}
	p.mu.Unlock()
	if w != nil && tell {
		p.monitor.event("STOP", nil)
	}
	return w != nil
}

// resume starts copying again and says so.
func (p *pump) resume() error {
	if err := p.cont(); err != nil {
		return err
	}
	p.monitor.event("RESUME", nil)
	return nil
}

// setMove enters a migration state.
func (p *pump) setMove(state string) {
	p.mu.Lock()
	p.move = state
	tell := p.caps["events"]
	p.mu.Unlock()
	if tell {
		p.monitor.event("MIGRATION", map[string]string{"status": state})
	}
}

// announce repeats the announcement as QEMU does, until the pump quits.
func (p *pump) announce(ctx context.Context) {
	for _, wait := range announcements {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := announce(pumpHostTap, p.config.MAC); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// listen opens the socket on which the guest arrives.
func (p *pump) listen() (*net.UnixListener, error) {
	_ = os.Remove(p.config.Incoming)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: p.config.Incoming, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("wait for guest %s: %w", p.config.Guest, err)
	}
	return l, nil
}
