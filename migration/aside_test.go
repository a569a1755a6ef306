package migration

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// aside is what the source can learn from the destination itself, and do when the record does not answer.
func (w world) aside(add addFunc) {
	src, dst := &w.ends[0].session, &w.ends[1].session
	told := w.move
	switch told.Status.Phase {
	case fabric.MoveGranted, fabric.MoveStaged, fabric.MoveCopying, fabric.MoveSwitched:
	default:
		return
	}
	if w.ends[1].up && src.State == Awaiting && src.Incoming == "" && (dst.State == Offering || dst.State == Watching) {
		offered := told
		offered.Status.Phase, offered.Status.Incoming = fabric.MoveStaged, "there"
		add("the destination tells the source that it is staged", func(n *world) { n.step(0, Event{Kind: Saw, Record: &offered}, false) })
	}
	if w.ends[1].up && !src.Fault && dst.State == Surrendered {
		faulty := told
		faulty.Status.Fault = "why"
		add("the destination tells the source that it gave up", func(n *world) { n.step(0, Event{Kind: Saw, Record: &faulty}, false) })
	}
}

// TestAsideEveryMischiefOnce has the hosts go on without the record at any point after the grant; every mischief in the long form
// (WEFT_MOVES, as make soak sets it), else a person who aborts.
func TestAsideEveryMischiefOnce(t *testing.T) {
	t.Parallel()
	o := options{gated: true, mischief: 1, aside: true}
	if os.Getenv("WEFT_MOVES") == "" {
		o.few = []string{"aborts"}
	}
	explore(t, o, sound(o))
}

func TestRunWithTheRecordsAwayFromTheGrantOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.fresh, p.book.away = true, true })
		synctest.Wait()
		p.book.offer("unix:/there")
		synctest.Wait()
		if p.src.was("migrate unix:/there") {
			t.Fatal("the guest is copied before the record had its time")
		}
		time.Sleep(1100 * time.Millisecond)
		p.at(t, fabric.MoveGranted)
		if !p.src.was("migrate unix:/there") || !p.srcPlane.has("remember unix:/there") {
			t.Fatalf("orders %v, plane %v", p.src.orders, p.srcPlane.done)
		}
		close(p.srcPlane.inherited)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		synctest.Wait()
		if !p.src.was("continue") || !p.srcPlane.has("handoff") {
			t.Fatalf("orders %v, plane %v", p.src.orders, p.srcPlane.done)
		}
		p.src.tell(qmp.Completed)
		p.dst.tell(qmp.Runs)
		p.plane.frames <- FirstFrame{Port: "p", Time: time.Now()}
		time.Sleep(time.Minute)
		p.at(t, fabric.MoveGranted)
		p.book.setAway(false)
		if got := <-p.dstEnd; got != fabric.MoveActive {
			t.Errorf("the destination ended %q", got)
		}
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
		p.at(t, fabric.MoveSettled)
	})
}
