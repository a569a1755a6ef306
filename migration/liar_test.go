package migration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// monitor is a QMP socket of the test's own: what it answers to a command, and what it says besides, is the test's to choose.
type monitor struct {
	path string

	mu       sync.Mutex
	commands []string
	conn     net.Conn
	// answer are the lines after a command; %d is its id. nil answers as a machine does that runs and has never been moved.
	answer func(command string) []string
}

const greeting = `{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}`

// listen starts one; greet is the first thing it says, empty for nothing.
func listen(t *testing.T, greet string, answer func(command string) []string) *monitor {
	t.Helper()
	m := &monitor{path: filepath.Join(t.TempDir(), "qmp"), answer: answer}
	l, err := net.Listen("unix", m.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); m.hangUp() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conn = conn
			m.mu.Unlock()
			if greet != "" {
				fmt.Fprintf(conn, "%s\r\n", greet)
			}
			m.serve(conn)
		}
	}()
	return m
}

func (m *monitor) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var c struct {
			Execute string `json:"execute"`
			ID      uint64 `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			return
		}
		m.mu.Lock()
		m.commands = append(m.commands, c.Execute)
		answer := m.answer
		m.mu.Unlock()
		var out []string
		if answer != nil {
			out = answer(c.Execute)
		}
		if out == nil {
			out = honest[c.Execute]
		}
		if out == nil {
			out = []string{`{"return": {}, "id": %d}`}
		}
		for _, line := range out {
			fmt.Fprintln(conn, strings.Replace(line, "%d", fmt.Sprint(c.ID), 1))
		}
	}
}

var honest = map[string][]string{"query-status": {`{"return": {"running": true, "status": "running"}, "id": %d}`}}

// mute is the answer of a machine that gives none.
var mute = []string{}

func event(name, status string) string {
	data := ""
	if status != "" {
		data = fmt.Sprintf(`, "data": {"status": %q}`, status)
	}
	return fmt.Sprintf(`{"event": %q%s, "timestamp": {"seconds": 1, "microseconds": 2}}`, name, data)
}

func (m *monitor) turn(answer func(string) []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = answer
}

func (m *monitor) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
	}
}

func (m *monitor) was(command string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.commands {
		if c == command {
			return true
		}
	}
	return false
}

// hasty are limits that tests can wait for.
var hasty = Limits{Stage: 20 * time.Second, Record: time.Minute, Copy: 500 * time.Millisecond, Switch: time.Second, Answer: 500 * time.Millisecond, Relay: time.Second}

// deceived is a move whose source has such a monitor, and whose destination waits.
func deceived(t *testing.T, m *monitor, limits Limits) (b *book, p *plane, alarms chan string, ended chan fabric.Phase) {
	t.Helper()
	b, p = newBook(), &plane{fails: map[string]error{}, inherited: make(chan struct{})}
	close(p.inherited)
	if _, err := b.Advance(t.Context(), "m", "dst", fabric.MoveStatus{Phase: fabric.MoveStaged, Incoming: "unix:/there"}); err != nil {
		t.Fatal(err)
	}
	guest := qmp.Watch(m.path, qmp.Options{})
	t.Cleanup(func() { guest.Close() })
	alarms, ended = make(chan string, 64), make(chan fabric.Phase, 1)
	move := b.move()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	ctx := t.Context()
	go func() {
		defer close(done)
		o := Options{Move: &move, Host: "src", Records: b, Limits: limits, Alarm: func(text string) { alarms <- text }}
		phase, _ := RunSource(ctx, o, guest, p)
		ended <- phase
	}()
	return b, p, alarms, ended
}

// TestASourceWhoseMonitorCannotBeTrustedKeepsItsGuest: whatever it says or does not say, the guest's ports stay open where it runs, and the
// move is given up with the reason.
func TestASourceWhoseMonitorCannotBeTrustedKeepsItsGuest(t *testing.T) {
	says := func(answers map[string][]string) func(string) []string {
		return func(c string) []string { return answers[c] }
	}
	cancelled := []string{`{"return": {}, "id": %d}`, event("MIGRATION", "cancelled")}
	for _, c := range []struct {
		name, greeting string
		answer         func(string) []string
		reason         string
	}{
		{"it does not greet", "", nil, "whether the guest runs"},
		{"it greets with garbage", "\x00\xff\xfe{[(", nil, "whether the guest runs"},
		{"it greets with another protocol", "220 mail ready", nil, "whether the guest runs"},
		{"it greets without an end", strings.Repeat("x", 100_000), nil, "whether the guest runs"},
		{"it never answers", greeting, func(string) []string { return mute }, "whether the guest runs"},
		{"it answers with other numbers", greeting, func(string) []string { return []string{`{"return": {}, "id": 4711}`} }, "whether the guest runs"},
		{"it answers with other types", greeting, says(map[string][]string{"query-status": {`{"return": [1, "two"], "id": %d}`}}), "whether the guest runs"},
		{"it refuses to migrate", greeting, says(map[string][]string{"migrate": {`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`}}), "refused"},
		{"garbage follows the order", greeting, says(map[string][]string{"migrate": {`{"return": `, `]]]]`}}), "the order to migrate was not answered"},
		{"it has sent the guest, which runs on", greeting, says(map[string][]string{
			"migrate": {`{"return": {}, "id": %d}`, event("MIGRATION", "active"), event("MIGRATION", "completed")}}), "it is not believed"},
		{"it waits before a switchover, and the guest runs on", greeting, says(map[string][]string{
			"migrate":        {`{"return": {}, "id": %d}`, event("MIGRATION", "active"), event("MIGRATION", "pre-switchover")},
			"migrate_cancel": cancelled}), "not copied within"},
		{"it copies for ever", greeting, says(map[string][]string{
			"migrate":        {`{"return": {}, "id": %d}`, event("MIGRATION", "active")},
			"migrate_cancel": cancelled}), "not copied within"},
		{"it says states that there are not", greeting, says(map[string][]string{
			"migrate":        {`{"return": {}, "id": %d}`, event("MIGRATION", "teleporting"), event("MIGRATION", ""), event("SUSPICION", "")},
			"migrate_cancel": cancelled}), "not copied within"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := hasty
			if c.reason == "whether the guest runs" {
				limits.Stage = 500 * time.Millisecond
			}
			b, p, _, ended := deceived(t, listen(t, c.greeting, c.answer), limits)
			if got := <-ended; got != fabric.MoveAborted {
				t.Errorf("it ended %q", got)
			}
			if m := b.move(); !strings.Contains(m.Status.Reason, c.reason) || b.world.loc.Host != "src" || b.world.loc.Epoch != 3 {
				t.Errorf("the record says %q, the port is at %+v", m.Status.Reason, b.world.loc)
			}
			if p.has("handoff") {
				t.Errorf("the ports of a guest that runs were closed: %v", p.done)
			}
		})
	}
}

// TestAMonitorThatFallsSilentDuringTheCopy: nobody knows whether the guest is sent, so nothing is concluded; its ports stay open until it is said
// to have stopped, a person is told, and once it speaks again the move ends.
func TestAMonitorThatFallsSilentDuringTheCopy(t *testing.T) {
	m := listen(t, greeting, nil)
	m.turn(func(c string) []string {
		if c == "migrate" {
			m.turn(func(string) []string { return mute })
			return []string{`{"return": {}, "id": %d}`, event("MIGRATION", "active")}
		}
		return nil
	})
	b, p, alarms, ended := deceived(t, m, hasty)
	if text := <-alarms; !strings.Contains(text, "does not say that it has") {
		t.Errorf("alarm %q", text)
	}
	if phase := b.move().Status.Phase; phase != fabric.MoveCopying || p.has("handoff") || p.has("finish") {
		t.Errorf("meanwhile it is %s, plane %v", phase, p.done)
	}
	m.turn(func(c string) []string {
		if c == "query-migrate" {
			return []string{`{"return": {"status": "cancelled"}, "id": %d}`}
		}
		return nil
	})
	m.hangUp()
	if got := <-ended; got != fabric.MoveAborted || p.has("handoff") {
		t.Errorf("it ended %q, plane %v", got, p.done)
	}
}

// lyingPlane is a destination whose machine has a monitor of the test's own.
type lyingPlane struct {
	plane
	guest Guest
}

func (p *lyingPlane) Stage(context.Context, *fabric.Move) (Staged, error) {
	return Staged{Incoming: "unix:/there", Guest: p.guest}, p.did("stage")
}

// overheard is a machine whose words the test hands on, one by one.
type overheard struct {
	*qmp.Guest
	events chan qmp.Event
}

func (o *overheard) Events() <-chan qmp.Event { return o.events }

// until waits for the record.
func (b *book) until(t *testing.T, fn func(fabric.Move) bool) {
	t.Helper()
	for {
		b.mu.Lock()
		m, changed := b.world.move, b.changed
		b.mu.Unlock()
		if fn(m) {
			return
		}
		<-changed
	}
}

// TestADestinationThatSaysItsGuestRunsIsNotBelieved before anything was sent to it: the port stays with the source.
func TestADestinationThatSaysItsGuestRunsIsNotBelieved(t *testing.T) {
	m := listen(t, greeting, nil) // it runs, it says
	watched := qmp.Watch(m.path, qmp.Options{})
	defer watched.Close()
	guest := &overheard{Guest: watched, events: make(chan qmp.Event)}
	b := newBook()
	p := &lyingPlane{plane: plane{fails: map[string]error{}, frames: make(chan FirstFrame, 1)}, guest: guest}
	move := b.move()
	ended := make(chan fabric.Phase, 1)
	ctx := t.Context()
	go func() {
		phase, _ := RunDestination(ctx, Options{Move: &move, Host: "dst", Records: b, Limits: hasty}, p)
		ended <- phase
	}()
	b.until(t, func(m fabric.Move) bool { return m.Status.Phase == fabric.MoveStaged })
	for e := range watched.Events() {
		guest.events <- e // when it is taken, all before it has been acted upon
		if e.Kind == qmp.Runs {
			guest.events <- qmp.Event{Kind: qmp.Idle}
			guest.events <- qmp.Event{Kind: qmp.Idle}
			break
		}
	}
	if _, err := b.Advance(ctx, "m", "src", fabric.MoveStatus{Phase: fabric.MoveCopying}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Advance(ctx, "m", "src", fabric.MoveStatus{Phase: fabric.MoveAborted, Reason: "asked"}); err != nil {
		t.Fatalf("the destination took the port: %v", err)
	}
	if got := <-ended; got != fabric.MoveAborted || !p.has("unstage") || b.world.loc.Host != "src" {
		t.Errorf("it ended %q, plane %v, port %+v", got, p.done, b.world.loc)
	}
	if !m.was("quit") {
		t.Error("its machine was not ended")
	}
}
