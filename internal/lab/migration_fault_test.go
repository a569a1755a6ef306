package lab

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// rollback is test 11: every reason for a guest to stay, in every phase, each followed at once by the next try, and nothing of any of
// them stays behind. Killing an agent in every phase is test 15.
func (r *rig) rollback(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "stay", Host: "h2", Pause: time.Second, Copy: 300 * time.Millisecond})
	echoServer(t, r.Lab, "stay", ":7")
	before := r.residue(t)
	for _, c := range []struct {
		name        string
		at, outcome fabric.Phase
		spoil       func(t *testing.T, m *fabric.Move)
	}{
		{"aborted as soon as it is granted", fabric.MoveGranted, fabric.MoveAborted, r.abort},
		{"aborted when staged", fabric.MoveStaged, fabric.MoveAborted, r.abort},
		{"aborted while memory is copied", fabric.MoveCopying, fabric.MoveAborted, r.abort},
		{"the destination's machine dies while memory is copied", fabric.MoveCopying, fabric.MoveAborted, r.killDestination},
		{"the destination's machine dies while the guest stands still", fabric.MoveSwitched, fabric.MoveFailed, r.killDestination},
		{"the hypervisor cancels while the guest stands still", fabric.MoveSwitched, fabric.MoveFailed, r.cancelAtSource},
	} {
		for range r.times(1, 10) {
			t.Run(c.name, func(t *testing.T) { r.stays(t, g, c.outcome, c.at, c.spoil) })
		}
	}
	r.compareResidue(t, before)
	t.Run("a machine whose memory is copied", r.rollbackQEMU)
}

// rollbackQEMU is the same with a real machine, and with both agents dead, after which the move succeeds.
func (r *rig) rollbackQEMU(t *testing.T) {
	c := r.machine(t)
	throttle(t, c, 1<<20)
	r.stays(t, c, fabric.MoveAborted, fabric.MoveCopying, r.abort)
	r.stays(t, c, fabric.MoveAborted, fabric.MoveCopying, r.killDestination)
	stream := talk(t, r.Lab, address(c))
	m := startMove(t, r.Lab, c, r.next(t, c.Name))
	reach(t, r.Lab, m, fabric.MoveCopying)
	ends := []fabric.HostID{m.Spec.From, m.Spec.To}
	for _, host := range ends {
		if err := r.KillAgent(host); err != nil {
			t.Fatal(err)
		}
	}
	throttle(t, c, 1<<40)
	for _, host := range ends {
		if err := r.StartAgent(host); err != nil {
			t.Fatal(err)
		}
	}
	m = reach(t, r.Lab, m, fabric.MoveSettled)
	t.Logf("%+v", m.Status.Result)
	if _, err := stream.Stop(); err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	settled(t, r.Lab, c.Name, m.Spec.To)
}

func (r *rig) abort(t *testing.T, m *fabric.Move) {
	client, err := r.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.AbortMove(t.Context(), fabric.MoveID(m.Metadata.Name)); err != nil {
		t.Fatal(err)
	}
}

// killDestination ends the machine that waits for a guest.
func (r *rig) killDestination(t *testing.T, m *fabric.Move) {
	g, err := r.Guest(m.Spec.VM)
	if err != nil || len(g.Instances) != 2 {
		t.Fatalf("guest %s has the instances %+v (%v), want two", m.Spec.VM, g.Instances, err)
	}
	if err := g.Instances[1].Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// cancelAtSource has the hypervisor give up, as somebody with a monitor of its own may.
func (r *rig) cancelAtSource(t *testing.T, m *fabric.Move) {
	g, err := r.Guest(m.Spec.VM)
	if err != nil {
		t.Fatal(err)
	}
	monitor, err := qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, labMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.MigrateCancel(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// stays begins a move that must not succeed, spoils it at the phase, and checks that the guest is served as before.
func (r *rig) stays(t *testing.T, g *Guest, outcome, at fabric.Phase, spoil func(*testing.T, *fabric.Move)) {
	t.Helper()
	before := holder(t, r.Lab, g.Name)
	every := time.Millisecond
	if g.Kind == QEMU {
		every = 20 * time.Millisecond
	}
	stream := talk(t, r.Lab, address(g))
	resumed := r.listenAtSource(t, g.Name)
	p := probe(t, r.Lab, "a", address(g), every)
	m := startMove(t, r.Lab, g, r.next(t, g.Name))
	reach(t, r.Lab, m, at)
	spoil(t, m)
	m = reach(t, r.Lab, m, outcome)
	ran := resumed()
	seen := p.end(t)
	said, err := stream.Stop()
	t.Logf("%s: %s; %s; %v without an answer after it ran on; TCP: %+v", m.Status.Phase, m.Status.Reason, seen, seen.silence(ran), said)
	if err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	if outcome == fabric.MoveAborted && seen.Lost != 0 {
		t.Errorf("%d probes were lost although the guest never stopped", seen.Lost)
	}
	if outcome == fabric.MoveFailed && !ran.IsZero() && g.Kind != QEMU {
		back := r.figures.add("11", "from the source's RESUME to its first answer", "ms", milli(seen.silence(ran)))
		back.ask(5, 5)
	}
	if m.Status.Reason == "" {
		t.Error("nobody says why")
	}
	after := holder(t, r.Lab, g.Name)
	if after.Host != before.Host || after.State != fabric.PortActive || after.Epoch != before.Epoch+2 {
		t.Errorf("afterwards the port is %s at %s in epoch %d, want active at %s in epoch %d", after.State, after.Host, after.Epoch, before.Host, before.Epoch+2)
	}
	settled(t, r.Lab, g.Name, before.Host)
}

// listenAtSource hears when a guest runs on where it is. The function that it returns ends that, and says when that was last; zero when it
// never stopped.
func (r *rig) listenAtSource(t *testing.T, guest string) func() time.Time {
	t.Helper()
	g, err := r.Guest(guest)
	if err != nil {
		t.Fatal(err)
	}
	if g.Kind == QEMU { // its second monitor sets the speed of the copy
		return func() time.Time { return time.Time{} }
	}
	var mu sync.Mutex
	var at time.Time
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	m, err := qmp.Dial(ctx, filepath.Join(g.Instances[0].Dir, lookMonitor), func(n qmp.Notice) {
		if n.Name == "RESUME" {
			mu.Lock()
			defer mu.Unlock()
			at = time.Now()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return func() time.Time {
		m.Close()
		mu.Lock()
		defer mu.Unlock()
		return at
	}
}

// startMove starts a move and does not wait for it.
func startMove(t *testing.T, l *Lab, g *Guest, to fabric.HostID) *fabric.Move {
	t.Helper()
	m, err := tryMove(t.Context(), l, g.Name, to)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reach waits until a move has been at a phase; one that has ended otherwise is an error.
func reach(t *testing.T, l *Lab, m *fabric.Move, phase fabric.Phase) *fabric.Move {
	t.Helper()
	m, err := awaitPhase(t.Context(), l, m, phase)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// throttle sets how many bytes in a second a machine sends when it migrates.
func throttle(t *testing.T, g *Guest, bytes int) {
	t.Helper()
	m, err := qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, labMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Execute(t.Context(), "migrate-set-parameters", map[string]int{"max-bandwidth": bytes}, nil); err != nil {
		t.Fatal(err)
	}
}

// residue is what a host has because of its guests and their moves, in lines: devices, pins, the entries of the core's tables that name
// stations, the processes of guests.
func (r *rig) residue(t *testing.T) map[fabric.HostID][]string {
	t.Helper()
	all := map[fabric.HostID][]string{}
	for _, host := range HostNames(r.Hosts) {
		var lines []string
		within(t, r.HostNamespace(host), func() error {
			devices, err := os.ReadFile("/proc/thread-self/net/dev")
			for line := range strings.Lines(string(devices)) {
				if name, _, found := strings.Cut(line, ":"); found {
					lines = append(lines, "device "+strings.TrimSpace(name))
				}
			}
			return err
		})
		maps := r.file(string(host), "bpf")
		err := filepath.WalkDir(maps, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				lines = append(lines, "pin "+digits.ReplaceAllString(strings.TrimPrefix(path, maps), "N")) // the kernel's numbers of devices
				lines = append(lines, stations(t, path)...)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(lines)
		all[host] = lines
	}
	return all
}

var digits = regexp.MustCompile(`/[0-9]+-`)

// stations are the keys of a table that names stations or ports; of others, nothing.
func stations(t *testing.T, pin string) (lines []string) {
	t.Helper()
	name := filepath.Base(pin)
	if !slices.ContainsFunc([]string{"fdb_", "neighbors_", "segments_", "trunks_"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
		return nil
	}
	out, err := exec.Command("bpftool", "-j", "map", "dump", "pinned", pin).Output()
	if err != nil {
		t.Fatalf("bpftool map dump pinned %s: %v", pin, err)
	}
	var entries []struct {
		Key json.RawMessage `json:"key"`
	}
	if err := json.Unmarshal(out, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		lines = append(lines, name+" "+string(e.Key))
	}
	return lines
}

// compareResidue waits until every host has what it had.
func (r *rig) compareResidue(t *testing.T, before map[fabric.HostID][]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var now map[fabric.HostID][]string
	err := poll(ctx, 200*time.Millisecond, func() (bool, error) {
		now = r.residue(t)
		for host, lines := range before {
			if !slices.Equal(lines, now[host]) {
				return false, nil
			}
		}
		return true, nil
	})
	if err == nil {
		return
	}
	for host, lines := range before {
		for _, line := range now[host] {
			if !slices.Contains(lines, line) {
				t.Errorf("%s has still: %s", host, line)
			}
		}
		for _, line := range lines {
			if !slices.Contains(now[host], line) {
				t.Errorf("%s has lost: %s", host, line)
			}
		}
	}
}
