package location_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

// world is a ledger on a memory store in which h1 holds all ports.
func world(t *testing.T) (*location.Ledger, *memory) {
	t.Helper()
	m := newMemory(t)
	l := location.New(m)
	for id := range m.snap.Ports {
		if _, err := l.Claim(t.Context(), id, "h1"); err != nil {
			t.Fatal(err)
		}
	}
	return l, m
}

func move(vm, to string) *fabric.Move {
	return &fabric.Move{Metadata: fabric.Metadata{Name: "m-" + vm + "-" + to}, Spec: fabric.MoveSpec{VM: vm, To: fabric.HostID(to)}}
}

// granted is a world in which VM a is on its way from h1 to h2.
func granted(t *testing.T) (*location.Ledger, *memory) {
	t.Helper()
	l, m := world(t)
	if _, err := l.Grant(t.Context(), move("a", "h2")); err != nil {
		t.Fatal(err)
	}
	return l, m
}

// refused checks that an error is of its kind and says what a person needs.
func refused(t *testing.T, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want an error that is %q", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not mention %q", err, s)
		}
	}
}

func report(t *testing.T, l *location.Ledger, host fabric.HostID, phases ...fabric.Phase) {
	t.Helper()
	for _, p := range phases {
		if _, err := l.Advance(t.Context(), "m-a-h2", host, fabric.MoveStatus{Phase: p}); err != nil {
			t.Fatal(err)
		}
	}
}

// holds checks who holds a port.
func holds(t *testing.T, m *memory, port fabric.PortID, host fabric.HostID, epoch fabric.Epoch, from fabric.HostID) {
	t.Helper()
	loc := m.snap.Locations[port]
	if loc.Host != host || loc.Epoch != epoch || loc.From != from {
		t.Errorf("port %s is at %q epoch %d relayed by %q, want %q epoch %d relayed by %q", port, loc.Host, loc.Epoch, loc.From, host, epoch, from)
	}
}

func TestClaimAndRelease(t *testing.T) {
	l, m := world(t)
	holds(t, m, "b", "h1", 1, "")
	writes := m.writes
	if _, err := l.Claim(t.Context(), "b", "h1"); err != nil || m.writes != writes {
		t.Fatalf("a second claim by the holder: %v, %d writes", err, m.writes-writes)
	}
	_, err := l.Claim(t.Context(), "b", "h2")
	refused(t, err, fabric.ErrConflict, "claim port b for host h2", "host h1 holds it at epoch 1", "weft migrate b --to h2")
	_, err = l.Claim(t.Context(), "none", "h2")
	refused(t, err, fabric.ErrNotFound, "no port none")

	refused(t, l.Release(t.Context(), "b", "h2", 1), fabric.ErrStaleEpoch, "host h1 holds it at epoch 1")
	refused(t, l.Release(t.Context(), "b", "h1", 7), fabric.ErrStaleEpoch, "at epoch 1, not at 7")
	for range 2 {
		if err := l.Release(t.Context(), "b", "h1", 1); err != nil {
			t.Fatal(err)
		}
	}
	_, err = l.Claim(t.Context(), "b", "h9")
	refused(t, err, fabric.ErrNotFound, "host h9 is not registered")
	if loc, err := l.Claim(t.Context(), "b", "h2"); err != nil || loc.Epoch != 2 {
		t.Fatalf("claim after release: %+v, %v", loc, err)
	}
	refused(t, l.Release(t.Context(), "b", "h1", 1), fabric.ErrStaleEpoch, "host h2 holds it at epoch 2")
}

func TestGrantCoversEveryPortOfTheMachine(t *testing.T) {
	l, m := granted(t)
	for _, p := range []fabric.PortID{"a-0", "a-1"} {
		g := m.snap.Locations[p].Grant
		if g == nil || *g != (fabric.Grant{Move: "m-a-h2", To: "h2", Epoch: 2, Rollback: 3}) {
			t.Errorf("port %s has grant %+v", p, g)
		}
		holds(t, m, p, "h1", 1, "")
	}
	rec := m.snap.Moves["m-a-h2"]
	if rec.Spec.From != "h1" || len(rec.Spec.Ports) != 2 || rec.Status.Phase != fabric.MoveGranted || rec.Status.Epoch != 2 {
		t.Errorf("move record %+v", rec)
	}
	if again, err := l.Grant(t.Context(), move("a", "h2")); err != nil || again.Spec.From != "h1" {
		t.Errorf("granting again: %+v, %v", again, err)
	}
}

func TestGrantRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		move *fabric.Move
		kind error
		says string
	}{
		{"a second move of the VM", move("a", "h3"), fabric.ErrConflict, "move m-a-h2 is taking it to h2"},
		{"a host that does not exist", move("b", "h9"), fabric.ErrNotFound, "no host h9"},
		{"a VM without ports", move("zz", "h2"), fabric.ErrNotFound, "no port belongs to a VM zz"},
		{"the host it is on", move("b", "h1"), fabric.ErrInvalid, "already holds"},
		{"a name taken by another move", &fabric.Move{Metadata: fabric.Metadata{Name: "m-a-h2"}, Spec: fabric.MoveSpec{VM: "b", To: "h2"}}, fabric.ErrConflict, "another name"},
		{"no name", &fabric.Move{Spec: fabric.MoveSpec{VM: "b", To: "h2"}}, fabric.ErrInvalid, "no name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, m := granted(t)
			writes := m.writes
			_, err := l.Grant(t.Context(), c.move)
			refused(t, err, c.kind, c.says)
			if m.writes != writes {
				t.Error("a refused grant wrote something")
			}
		})
	}
}

func TestGrantRefusesPortsOnTwoHosts(t *testing.T) {
	l, m := world(t)
	if err := l.Release(t.Context(), "a-1", "h1", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Claim(t.Context(), "a-1", "h2"); err != nil {
		t.Fatal(err)
	}
	_, err := l.Grant(t.Context(), move("a", "h3"))
	refused(t, err, fabric.ErrConflict, "from one host")
	if len(m.snap.Moves) != 0 {
		t.Error("a refused grant left a move")
	}
}

func TestAPortThatIsNotPluggedInStaysBehind(t *testing.T) {
	l, _ := world(t)
	if err := l.Release(t.Context(), "a-1", "h1", 1); err != nil {
		t.Fatal(err)
	}
	m, err := l.Grant(t.Context(), move("a", "h3"))
	if err != nil || !slices.Equal(m.Spec.Ports, []fabric.PortID{"a-0"}) {
		t.Fatalf("%+v, %v: want a move of a-0 alone", m, err)
	}
}

func TestGrantRefusesAGuestThatDoesNotRun(t *testing.T) {
	l, _ := world(t)
	for _, port := range []fabric.PortID{"a-0", "a-1"} {
		if err := l.Release(t.Context(), port, "h1", 1); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Grant(t.Context(), move("a", "h3"))
	refused(t, err, fabric.ErrConflict, "no host holds port a-0", "start the VM")
}

func TestCommitMovesAllPortsAtOnce(t *testing.T) {
	l, m := granted(t)
	report(t, l, "h2", fabric.MoveStaged)
	report(t, l, "h1", fabric.MoveCopying, fabric.MoveSwitched)
	refused(t, l.Commit(t.Context(), "a-0", "h3", 2), fabric.ErrInvalid, "not h3's to report")
	refused(t, l.Commit(t.Context(), "a-0", "h2", 9), fabric.ErrStaleEpoch, "not at 9")
	for range 2 {
		if err := l.Commit(t.Context(), "a-0", "h2", 2); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, m, "a-0", "h2", 2, "h1")
	holds(t, m, "a-1", "h2", 2, "h1")
	refused(t, l.Rollback(t.Context(), "a-1", "h1", 3), fabric.ErrStaleEpoch, "host h2 holds it at epoch 2")
	_, err := l.Advance(t.Context(), "m-a-h2", "h1", fabric.MoveStatus{Phase: fabric.MoveFailed})
	refused(t, err, fabric.ErrStaleEpoch, "must not run on")
	report(t, l, "h1", fabric.MoveSettled, fabric.MoveSettled)
	holds(t, m, "a-0", "h2", 2, "")
	if got := m.snap.Moves["m-a-h2"].Status.Phase; got != fabric.MoveSettled {
		t.Errorf("phase %s", got)
	}
}

func TestRollbackKeepsAllPortsAtOnce(t *testing.T) {
	l, m := granted(t)
	report(t, l, "h2", fabric.MoveStaged)
	report(t, l, "h1", fabric.MoveCopying, fabric.MoveSwitched)
	for range 2 {
		if err := l.Rollback(t.Context(), "a-1", "h1", 3); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, m, "a-0", "h1", 3, "")
	holds(t, m, "a-1", "h1", 3, "")
	refused(t, l.Commit(t.Context(), "a-0", "h2", 2), fabric.ErrStaleEpoch, "host h1 holds it at epoch 3")
	now, err := l.Advance(t.Context(), "m-a-h2", "h2", fabric.MoveStatus{Phase: fabric.MoveActive})
	refused(t, err, fabric.ErrConflict, "is over")
	if now == nil || now.Status.Phase != fabric.MoveFailed {
		t.Errorf("a refused report returns the record as it is, got %+v", now)
	}
	if again, err := l.Grant(t.Context(), move("a", "h3")); err != nil || again.Status.Epoch != 4 {
		t.Errorf("the next move gets epoch 4: %+v, %v", again, err)
	}
}

func TestFaultAtTheDestinationVoidsItsEpoch(t *testing.T) {
	l, m := granted(t)
	report(t, l, "h2", fabric.MoveStaged)
	report(t, l, "h1", fabric.MoveCopying)
	if _, err := l.Advance(t.Context(), "m-a-h2", "h2", fabric.MoveStatus{Fault: "qemu exited"}); err != nil {
		t.Fatal(err)
	}
	if got := m.snap.Moves["m-a-h2"].Status; got.Phase != fabric.MoveCopying || got.Fault != "qemu exited" {
		t.Fatalf("status %+v", got)
	}
	refused(t, l.Commit(t.Context(), "a-0", "h2", 2), fabric.ErrStaleEpoch, "qemu exited")
	_, err := l.Advance(t.Context(), "m-a-h2", "h1", fabric.MoveStatus{Phase: fabric.MoveCopying, Fault: "not mine"})
	refused(t, err, fabric.ErrInvalid)
	_, err = l.Advance(t.Context(), "m-a-h2", "h1", fabric.MoveStatus{Fault: "not mine"})
	refused(t, err, fabric.ErrInvalid)
}

func TestAnEmptyReportReads(t *testing.T) {
	l, m := granted(t)
	writes := m.writes
	rec, err := l.Advance(t.Context(), "m-a-h2", "h1", fabric.MoveStatus{})
	if err != nil || rec.Status.Phase != fabric.MoveGranted || m.writes != writes {
		t.Errorf("%+v, %v, %d writes", rec, err, m.writes-writes)
	}
	_, err = l.Advance(t.Context(), "m-a-h2", "h3", fabric.MoveStatus{})
	refused(t, err, fabric.ErrInvalid, "not h3's")
}

func TestAFaultAfterTheCommitIsRefused(t *testing.T) {
	l, _ := granted(t)
	report(t, l, "h2", fabric.MoveStaged, fabric.MoveActive)
	_, err := l.Advance(t.Context(), "m-a-h2", "h2", fabric.MoveStatus{Fault: "qemu exited"})
	refused(t, err, fabric.ErrConflict, "cannot give the move up")
}

func TestAbort(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	t.Run("before the copy is recorded the source is asked, too", func(t *testing.T) {
		l, m := granted(t)
		rec, err := l.Abort(t.Context(), "m-a-h2", "asked by root", now)
		if err != nil || !rec.Spec.Abort || rec.Status.Phase != fabric.MoveGranted || rec.Status.Reason != "asked by root" {
			t.Fatalf("%+v, %v", rec, err)
		}
		_, err = l.Advance(t.Context(), "m-a-h2", "h1", fabric.MoveStatus{Phase: fabric.MoveCopying})
		refused(t, err, fabric.ErrConflict, "aborted")
		if _, err := l.Advance(t.Context(), "m-a-h2", "h2", fabric.MoveStatus{Phase: fabric.MoveAborted}); !errors.Is(err, fabric.ErrInvalid) {
			t.Fatalf("the destination aborted: %v", err)
		}
		report(t, l, "h1", fabric.MoveAborted)
		holds(t, m, "a-0", "h1", 3, "")
	})
	t.Run("a guest that was sent while nothing could be recorded is at its destination", func(t *testing.T) {
		l, m := granted(t)
		if _, err := l.Abort(t.Context(), "m-a-h2", "asked by root", now); err != nil {
			t.Fatal(err)
		}
		report(t, l, "h1", fabric.MoveSwitched)
		report(t, l, "h2", fabric.MoveActive)
		holds(t, m, "a-0", "h2", 2, "h1")
	})
	t.Run("of a source that there is no more nothing is asked", func(t *testing.T) {
		l, m := granted(t)
		delete(m.snap.Hosts, "h1")
		rec, err := l.Abort(t.Context(), "m-a-h2", "asked by root", now)
		if err != nil || rec.Status.Phase != fabric.MoveAborted || rec.Status.Reason != "asked by root" {
			t.Fatalf("%+v, %v", rec, err)
		}
		holds(t, m, "a-0", "h1", 3, "")
	})
	t.Run("during the copy the source is asked", func(t *testing.T) {
		l, m := granted(t)
		report(t, l, "h2", fabric.MoveStaged)
		report(t, l, "h1", fabric.MoveCopying)
		if rec, err := l.Abort(t.Context(), "m-a-h2", "asked", now); err != nil || !rec.Spec.Abort || rec.Status.Phase != fabric.MoveCopying {
			t.Fatalf("%+v, %v", rec, err)
		}
		if _, err := l.Advance(t.Context(), "m-a-h2", "h2", fabric.MoveStatus{Phase: fabric.MoveAborted}); !errors.Is(err, fabric.ErrInvalid) {
			t.Fatalf("the destination aborted a copy: %v", err)
		}
		report(t, l, "h1", fabric.MoveAborted)
		holds(t, m, "a-1", "h1", 3, "")
	})
	t.Run("after the guest moved it is refused", func(t *testing.T) {
		l, _ := granted(t)
		report(t, l, "h2", fabric.MoveStaged, fabric.MoveActive)
		_, err := l.Abort(t.Context(), "m-a-h2", "asked", now)
		refused(t, err, fabric.ErrConflict, "weft migrate a --to h1")
	})
}

func TestLateReportsFillInAndNeverGoBack(t *testing.T) {
	l, m := granted(t)
	stop := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	report(t, l, "h2", fabric.MoveStaged, fabric.MoveActive)
	late := fabric.MoveStatus{Phase: fabric.MoveSwitched, At: map[fabric.Phase]time.Time{fabric.MoveSwitched: stop}}
	for range 2 {
		if _, err := l.Advance(t.Context(), "m-a-h2", "h1", late); err != nil {
			t.Fatal(err)
		}
	}
	status := m.snap.Moves["m-a-h2"].Status
	if status.Phase != fabric.MoveActive || !status.At[fabric.MoveSwitched].Equal(stop) {
		t.Errorf("status %+v", status)
	}
}

func TestAWriterInBetweenIsSeen(t *testing.T) {
	l, m := granted(t)
	other := location.New(m)
	m.before = func() {
		if err := other.Rollback(context.Background(), "a-0", "h1", 3); err != nil {
			t.Error(err)
		}
	}
	refused(t, l.Commit(t.Context(), "a-0", "h2", 2), fabric.ErrStaleEpoch, "host h1 holds it at epoch 3")
	holds(t, m, "a-1", "h1", 3, "")
}

func TestAHostsOwnPortIsHeldByItAlone(t *testing.T) {
	m := newMemory(t)
	l := location.New(m)
	m.snap.Ports["host-h1-blue"] = &fabric.Port{Metadata: fabric.Metadata{Name: "host-h1-blue"}, Spec: fabric.PortSpec{Role: fabric.RoleHost, Switch: "blue", Host: "h1"}}
	_, err := l.Claim(t.Context(), "host-h1-blue", "h2")
	refused(t, err, fabric.ErrConflict, "the port of host h1 itself")
	holds(t, m, "host-h1-blue", "", 0, "")
	if _, err := l.Claim(t.Context(), "host-h1-blue", "h1"); err != nil {
		t.Fatal(err)
	}
	holds(t, m, "host-h1-blue", "h1", 1, "")
	_, err = l.Grant(t.Context(), move("host-h1-blue", "h2"))
	refused(t, err, fabric.ErrInvalid, "the port of host h1 itself, and stays there")
}
