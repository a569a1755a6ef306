package libvirt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/migration/qmp"
)

// Monitor hears what QEMU tells libvirt of its guests, from before a move begins: an event that comes before it is listened for is
// lost. It uses the command qemu-monitor-event of virsh, and leaves QEMU's own monitor to libvirt.
type Monitor struct {
	host Host
	log  *slog.Logger

	mu     sync.Mutex
	guests map[*Guest]bool
}

// NewMonitor makes a monitor of the host's libvirt; Run makes it listen. A nil logger discards.
func NewMonitor(h Host, log *slog.Logger) *Monitor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Monitor{host: h, log: log, guests: map[*Guest]bool{}}
}

// retryEvery is the pause between attempts to reach libvirt.
const retryEvery = time.Second

// Run listens until ctx ends. When libvirtd ends, guests run on and so does the waiting for it; then each guest's state is asked.
func (m *Monitor) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.listen(ctx)
		m.log.Debug("libvirt's events have ended; trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
		for _, g := range m.watched("") {
			go g.ask(ctx)
		}
	}
}

// listen hands events on until virsh ends.
func (m *Monitor) listen(ctx context.Context) error {
	cmd := m.host.command(ctx, "qemu-monitor-event", "--loop")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	for lines.Scan() {
		if vm, n, ok := readNotice(lines.Text()); ok {
			for _, g := range m.watched(vm) {
				g.notice(n)
			}
		}
	}
	return errors.Join(lines.Err(), cmd.Wait())
}

// noticeExpr is an event as virsh prints it: event STOP at 1795400333.065597 for domain 'vm1': <null>
var noticeExpr = regexp.MustCompile(`^event ([A-Z0-9_]+) at ([0-9]{1,12})\.([0-9]{6}) for domain '(.*)': (.*)$`)

// readNotice reads a line of virsh.
func readNotice(line string) (vm string, n qmp.Notice, ok bool) {
	f := noticeExpr.FindStringSubmatch(line)
	if f == nil {
		return "", n, false
	}
	seconds, err := strconv.ParseInt(f[2], 10, 64)
	micros, err2 := strconv.ParseInt(f[3], 10, 64)
	if err != nil || err2 != nil {
		return "", n, false
	}
	n = qmp.Notice{Name: f[1], Time: time.Unix(seconds, micros*1000)}
	if f[5] != "<null>" {
		n.Data = []byte(f[5])
	}
	return f[4], n, true
}

// watched are the guests of this name that somebody watches; all when it is empty.
func (m *Monitor) watched(vm string) (all []*Guest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for g := range m.guests {
		if vm == "" || g.vm == vm {
			all = append(all, g)
		}
	}
	return all
}

// Ended says that the guest's machine has ended here, as libvirt told its hook.
func (m *Monitor) Ended(vm string) {
	for _, g := range m.watched(vm) {
		g.gone("libvirt says that it has ended")
	}
}

// Watch follows a guest until Close: one that is about to leave this host, or one that is arriving.
func (m *Monitor) Watch(vm string, arriving bool) *Guest {
	ctx, cancel := context.WithCancel(context.Background())
	g := &Guest{monitor: m, vm: vm, arriving: arriving, events: make(chan qmp.Event, 256), ended: make(chan struct{}), cancel: cancel}
	m.mu.Lock()
	m.guests[g] = true
	m.mu.Unlock()
	go g.ask(ctx)
	return g
}

// Guest is a guest of libvirt's in a migration that libvirt drives. What a move orders of it is done only as far as libvirt does
// not do it by itself.
type Guest struct {
	monitor  *Monitor
	vm       string
	arriving bool
	events   chan qmp.Event
	ended    chan struct{}
	cancel   context.CancelFunc

	mu sync.Mutex
	// heard is true once QEMU itself has said whether the guest runs, migrating while it has said that a migration is under way.
	heard, migrating, closed bool
}

// Events tells what happens, in order. The channel is closed after Gone and after Close.
func (g *Guest) Events() <-chan qmp.Event { return g.events }

// Ended is closed when the machine has ended.
func (g *Guest) Ended() <-chan struct{} { return g.ended }

// Close stops watching. The guest is left alone.
func (g *Guest) Close() error {
	g.monitor.mu.Lock()
	delete(g.monitor.guests, g)
	g.monitor.mu.Unlock()
	g.cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.close()
	return nil
}

func (g *Guest) close() {
	if !g.closed {
		g.closed = true
		close(g.events)
	}
}

// tell hands an event on; one that nobody takes for 256 others is dropped, and its reader has long been given up.
func (g *Guest) tell(e qmp.Event) {
	if g.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	select {
	case g.events <- e:
	default:
		g.monitor.log.Error("an event of a guest was dropped: nobody takes them", "vm", g.vm, "event", string(e.Kind))
	}
}

// notice takes an event of QEMU's.
func (g *Guest) notice(n qmp.Notice) {
	e, matters := qmp.EventOf(n)
	if !matters {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Kind {
	case qmp.Runs, qmp.Stops:
		g.heard = true
	case qmp.Copying, qmp.Waiting, qmp.NoReturn, qmp.Broken:
		g.migrating = true
	default:
		g.migrating = false
	}
	g.tell(e)
}

// gone says that the machine has ended.
func (g *Guest) gone(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end(why)
}

// end is gone with the lock held.
func (g *Guest) end(why string) {
	if g.closed {
		return
	}
	g.tell(qmp.Event{Kind: qmp.Gone, Desc: why})
	close(g.ended)
	g.close()
}

// ask tells how things stand, unless QEMU has said meanwhile. Of a guest that is arriving there is nothing to ask but whether it runs.
func (g *Guest) ask(ctx context.Context) {
	job, jobErr := "", error(nil)
	if !g.arriving {
		job, jobErr = g.monitor.host.virsh(ctx, "domjobinfo", g.vm)
	}
	out, err := g.monitor.host.virsh(ctx, "domstate", g.vm, "--reason")
	state, reason, _ := strings.Cut(strings.TrimSpace(out), " (")
	var refused *CommandError
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.heard || g.migrating:
		return
	case !g.arriving && (errors.As(err, &refused) || state == "shut off"):
		g.end("libvirt has no such guest running")
		return
	case err != nil || jobErr != nil:
		g.monitor.log.Warn("libvirt does not say how a guest is", "vm", g.vm, "error", errors.Join(err, jobErr))
		return
	}
	kind := qmp.Idle
	switch {
	case g.arriving:
	case strings.HasPrefix(reason, "post-copy failed"):
		kind = qmp.Broken
	case state == "paused" && strings.HasPrefix(reason, "post-copy"):
		kind = qmp.NoReturn
	case strings.Contains(job, "Outgoing migration"):
		kind = qmp.Copying
	}
	g.tell(qmp.Event{Kind: kind})
	switch {
	case state == "running":
		g.tell(qmp.Event{Kind: qmp.Runs})
	case !g.arriving:
		g.tell(qmp.Event{Kind: qmp.Stops})
	}
}

// Migrate does nothing: libvirt sends the guest.
func (g *Guest) Migrate(context.Context, string) error { return nil }

// Continue does nothing: libvirt goes on by itself.
func (g *Guest) Continue(context.Context) error { return nil }

// Announce does nothing: QEMU announces a guest that has arrived, and one that has stayed is where the fabric has it.
func (g *Guest) Announce(context.Context) error { return nil }

// Cancel has libvirt give the migration up. A guest that is not being sent has nothing to give up, and that is told.
func (g *Guest) Cancel(ctx context.Context) error {
	_, err := g.monitor.host.virsh(ctx, "domjobabort", g.vm)
	var refused *CommandError
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.migrating { // nothing was under way in QEMU, so QEMU will say nothing
		g.tell(qmp.Event{Kind: qmp.Cancelled})
	}
	return nil
}

// Resume is libvirt's to do: only it knows whether the guest's disks are here. It says what a person can do.
func (g *Guest) Resume(context.Context) error {
	return fmt.Errorf("libvirt decides where %s goes on; if it stays paused: virsh resume %s", g.vm, g.vm)
}

// Quit ends a machine that still waits for its guest. Every other is libvirt's to end.
func (g *Guest) Quit(ctx context.Context) error {
	if !g.arriving {
		return nil
	}
	state, err := g.monitor.host.virsh(ctx, "domstate", g.vm, "--reason")
	var refused *CommandError
	if errors.As(err, &refused) || err == nil && strings.TrimSpace(state) != "paused (migrating)" {
		return nil
	}
	if err == nil {
		_, err = g.monitor.host.virsh(ctx, "destroy", g.vm)
	}
	return err
}
