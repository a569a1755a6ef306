package migration

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// pair is a move with both ends, in a bubble of fake time.
type pair struct {
	book             *book
	src, dst         *guest
	srcPlane, plane  *plane
	srcEnd, dstEnd   chan fabric.Phase
	cancelS, cancelD context.CancelFunc
	fresh            bool
}

func newPair(t *testing.T, prepare ...func(*pair)) *pair {
	p := &pair{
		book: newBook(), src: newGuest(qmp.Idle, qmp.Runs), dst: newGuest(qmp.Idle, qmp.Stops),
		srcPlane: &plane{fails: map[string]error{}, inherited: make(chan struct{}), earlier: Counts{Relayed: 5, Lost: 9}, counts: Counts{Relayed: 12, Lost: 10}},
		plane:    &plane{fails: map[string]error{}, frames: make(chan FirstFrame, 1), counts: Counts{Lost: 2}},
	}
	p.plane.waiting = p.dst
	for _, f := range prepare {
		f(p)
	}
	p.startSource(t)
	p.startDestination(t)
	return p
}

func (p *pair) startSource(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancelS, p.srcEnd = cancel, make(chan fabric.Phase, 1)
	m := p.book.move()
	go func() {
		phase, err := RunSource(ctx, Options{Move: &m, Host: "src", Records: p.book, Fresh: p.fresh}, p.src, p.srcPlane)
		if err != nil && ctx.Err() == nil {
			t.Errorf("source: %v", err)
		}
		p.srcEnd <- phase
	}()
}

func (p *pair) startDestination(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancelD, p.dstEnd = cancel, make(chan fabric.Phase, 1)
	m := p.book.move()
	go func() {
		phase, err := RunDestination(ctx, Options{Move: &m, Host: "dst", Records: p.book, Fresh: p.fresh}, p.plane)
		if err != nil && ctx.Err() == nil {
			t.Errorf("destination: %v", err)
		}
		p.dstEnd <- phase
	}()
}

// at waits until nothing moves any more and checks the recorded phase.
func (p *pair) at(t *testing.T, phase fabric.Phase) {
	t.Helper()
	synctest.Wait()
	if got := p.book.move().Status.Phase; got != phase {
		t.Fatalf("the move is %q, want %q", got, phase)
	}
}

func bubble(t *testing.T, fn func(t *testing.T)) { t.Helper(); synctest.Test(t, fn) }

func TestRunAWholeMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		if !p.src.was("migrate unix:/there") {
			t.Fatalf("orders %v", p.src.orders)
		}
		p.src.answer(func(order string) error {
			if order == "continue" && !p.srcPlane.has("handoff") {
				t.Error("the switchover was allowed before the frames went to the destination")
			}
			return nil
		})
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		p.at(t, fabric.MoveSwitched)
		if p.src.was("continue") {
			t.Fatalf("the switchover was allowed before the destination knew the port's connections: orders %v", p.src.orders)
		}
		close(p.srcPlane.inherited)
		p.at(t, fabric.MoveSwitched)
		if !p.src.was("continue") {
			t.Fatalf("orders %v", p.src.orders)
		}
		time.Sleep(40 * time.Millisecond)
		p.src.tell(qmp.Completed)
		p.dst.tell(qmp.Runs)
		p.at(t, fabric.MoveActive)
		p.plane.frames <- FirstFrame{Port: "p", Time: time.Now().Add(2 * time.Millisecond)}
		p.at(t, fabric.MoveActive)
		if got := <-p.dstEnd; got != fabric.MoveActive {
			t.Errorf("the destination ended %q", got)
		}
		relayed := time.Now()
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
		if took := time.Since(relayed); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("late packets were sent on for %v", took)
		}
		p.at(t, fabric.MoveSettled)
		if !p.src.was("quit") || p.dst.was("quit") {
			t.Errorf("orders %v and %v", p.src.orders, p.dst.orders)
		}
		want := fabric.MoveResult{GuestPauseMs: 40, FabricGapMs: 2, Relayed: 7, Lost: 3}
		if got := p.book.move().Status.Result; got != want {
			t.Errorf("result %+v, want %+v", got, want)
		}
	})
}

func TestRunWithTheRecordsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		p.book.setAway(true)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		time.Sleep(50 * time.Millisecond) // for the destination, which never says that it knows the port's connections
		synctest.Wait()
		if !p.srcPlane.has("handoff") || !p.src.was("continue") {
			t.Fatalf("the switchover waited for the records: plane %v, orders %v", p.srcPlane.done, p.src.orders)
		}
		p.src.tell(qmp.Completed)
		p.dst.tell(qmp.Runs)
		p.plane.frames <- FirstFrame{Port: "p", Time: time.Now()}
		time.Sleep(time.Minute)
		p.at(t, fabric.MoveCopying)
		p.book.setAway(false)
		time.Sleep(3 * time.Second)
		p.at(t, fabric.MoveActive)
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
		<-p.dstEnd
	})
}

func TestRunAgainAfterBothAgentsWereAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying)
		synctest.Wait()
		p.cancelS()
		p.cancelD()
		<-p.srcEnd
		<-p.dstEnd
		// Meanwhile the guest moved; the monitors say so when they are asked again.
		p.src.tell(qmp.Completed, qmp.Stops)
		p.dst.tell(qmp.Completed, qmp.Runs)
		p.plane.frames <- FirstFrame{Port: "p"}
		p.startSource(t)
		p.startDestination(t)
		if got := <-p.dstEnd; got != fabric.MoveActive {
			t.Errorf("the destination ended %q", got)
		}
		if !p.srcPlane.has("handoff") {
			t.Error("late packets are not sent on")
		}
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
	})
}

// failures are the ways in which a move comes to nothing.
var failures = []struct {
	name    string
	prepare func(p *pair)
	story   func(t *testing.T, p *pair)
	phase   fabric.Phase
	order   string // the source must have given
}{
	{"the destination cannot be staged", func(p *pair) { p.plane.fails["stage"] = errors.New("no room") }, func(*testing.T, *pair) {}, fabric.MoveAborted, ""},
	{"a person aborts the copy", func(*pair) {}, func(t *testing.T, p *pair) {
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying)
		p.book.abort(t)
		synctest.Wait()
		p.src.tell(qmp.Cancelled)
	}, fabric.MoveAborted, "cancel"},
	{"the hypervisor fails after the stop", func(*pair) {}, func(t *testing.T, p *pair) {
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		p.at(t, fabric.MoveSwitched)
		p.src.tell(qmp.Failed, qmp.Runs)
	}, fabric.MoveFailed, "announce"},
	{"the destination dies after everything was sent", func(*pair) {}, func(t *testing.T, p *pair) {
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting, qmp.Completed)
		p.at(t, fabric.MoveSwitched)
		p.src.answer(func(order string) error {
			if order == "resume" {
				p.src.tell(qmp.Runs)
			}
			return nil
		})
		p.dst.tell(qmp.Gone)
	}, fabric.MoveFailed, "resume"},
	{"the frames cannot be sent on", func(p *pair) { p.srcPlane.fails["handoff"] = errors.New("the kernel refuses") }, func(t *testing.T, p *pair) {
		p.src.answer(func(order string) error {
			if order == "cancel" {
				p.src.tell(qmp.Runs, qmp.Cancelled)
			}
			return nil
		})
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
	}, fabric.MoveFailed, "cancel"},
}

func TestRunFailures(t *testing.T) {
	for _, c := range failures {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPair(t, c.prepare)
				c.story(t, p)
				if got := <-p.srcEnd; got != c.phase {
					t.Errorf("the source ended %q", got)
				}
				if got := <-p.dstEnd; got != c.phase {
					t.Errorf("the destination ended %q", got)
				}
				if !p.srcPlane.has("finish") || !p.plane.has("unstage") || !p.srcPlane.has("restore") {
					t.Errorf("planes %v and %v", p.srcPlane.done, p.plane.done)
				}
				if c.order != "" && !p.src.was(c.order) {
					t.Errorf("orders %v", p.src.orders)
				}
				m := p.book.move()
				if m.Status.Phase != c.phase || m.Status.Reason == "" {
					t.Errorf("record %+v", m.Status)
				}
			})
		})
	}
}

func TestRunRefusesAPausedGuest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.src = newGuest(qmp.Idle, qmp.Stops) })
		if got := <-p.srcEnd; got != fabric.MoveAborted || p.src.was("migrate unix:/there") {
			t.Errorf("the source ended %q, orders %v", got, p.src.orders)
		}
		<-p.dstEnd
	})
}

func TestAHookThatHangsIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begun := time.Now()
		p := newPair(t, func(p *pair) { p.plane.stages = make(chan struct{}) })
		if got := <-p.srcEnd; got != fabric.MoveAborted {
			t.Errorf("the source ended %q", got)
		}
		<-p.dstEnd
		if took := time.Since(begun); took < time.Minute || took > 70*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
