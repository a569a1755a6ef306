package migration

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// postcopy is what the machine at the source can do next once a person has asked for post-copy, as QEMU 7.2 does it
// (TestQEMUPostCopy in package qmp).
func (w world) postcopy(o options, add, mischief addFunc) {
	src, dst := w.qemu[0], w.qemu[1]
	past := src.migration == qmp.NoReturn || src.migration == qmp.Broken
	switch {
	case src.migration == qmp.NoReturn && src.runs:
		add("the guest stops for post-copy", func(n *world) { n.qemu[0].runs = false; n.tell(0, qmp.Stops) })
	case src.migration == qmp.NoReturn && w.stream == flowing:
		add("the guest goes on and its memory follows", func(n *world) {
			n.stream, n.qemu[1].migration = following, qmp.NoReturn
			n.tell(1, qmp.NoReturn)
		})
		mischief("post-copy cannot begin", func(n *world) { n.failed(qmp.Failed, true) })
	case src.migration == qmp.NoReturn && w.stream == torn, src.migration == qmp.NoReturn && w.stream == following && !dst.alive:
		add("the stream is broken", func(n *world) { n.tear() })
	case src.migration == qmp.NoReturn && w.stream == following && (dst.runs || dst.alive && w.paused):
		add("all of the memory has followed", func(n *world) {
			n.qemu[0].migration, n.qemu[1].migration, n.stream = qmp.Completed, qmp.Completed, delivered
			n.tell(0, qmp.Completed)
			n.tell(1, qmp.Completed)
		})
	case src.migration == qmp.Broken && dst.runs:
		add("a person recovers the stream", func(n *world) { n.qemu[0].migration = qmp.NoReturn; n.tell(0, qmp.NoReturn) })
	case src.migration == qmp.Broken && !dst.alive:
		add("a person ends the source's machine", func(n *world) { n.kill(0) })
	}
	if src.migration == qmp.NoReturn && w.stream == following {
		mischief("the stream breaks", func(n *world) { n.tear() })
	}
	if past && w.stream == following {
		mischief("a person cancels post-copy", func(n *world) {
			n.qemu[0].migration = qmp.Cancelled
			n.tell(0, qmp.Copying, qmp.Cancelled)
		})
	}
	if o.twins && src.migration == qmp.NoReturn && w.stream == following {
		mischief("the source runs on although the guest was sent", func(n *world) {
			n.qemu[0].migration, n.qemu[0].runs = qmp.Failed, true
			n.tell(0, qmp.Failed, qmp.Runs)
		})
	}
}

// TestPostCopyEveryMischiefOnce has every mischief in the long form (WEFT_MOVES) also where the hypervisor does not wait, else what concerns
// post-copy.
func TestPostCopyEveryMischiefOnce(t *testing.T) {
	for _, o := range []options{{gated: true, mischief: 1, postcopy: true}, {gated: false, mischief: 1, earlier: qmp.Completed, postcopy: true}} {
		if !o.gated && os.Getenv("WEFT_MOVES") == "" {
			o.few = []string{"dies", "breaks", "begin", "cancels post-copy", "aborts"}
		}
		t.Run(fmt.Sprintf("gated %v after %q", o.gated, o.earlier), func(t *testing.T) {
			t.Parallel()
			explore(t, o, sound(o))
		})
	}
}

// TestPostCopyTwins has QEMU let the guest run on at the source when the stream fails a moment after the destination has it
// (postcopy_start of QEMU up to 10.1).
func TestPostCopyTwins(t *testing.T) {
	t.Parallel()
	explore(t, options{gated: true, mischief: 1, twins: true, postcopy: true, few: []string{"sent"}}, oneAtLast)
}

// inPostCopy is a move whose guest runs at the destination while its memory follows.
func inPostCopy(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	p.at(t, fabric.MoveCopying)
	p.src.tell(qmp.Copying, qmp.NoReturn, qmp.Stops)
	p.at(t, fabric.MoveSwitched)
	p.dst.tell(qmp.Copying, qmp.NoReturn, qmp.Runs)
	p.at(t, fabric.MoveActive)
	p.plane.frames <- FirstFrame{Port: "p", Time: time.Now()}
	if got := <-p.dstEnd; got != fabric.MoveActive {
		t.Fatalf("the destination ended %q", got)
	}
	return p
}

func TestPostCopyKeepsTheSourceUntilTheMemoryHasFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := inPostCopy(t)
		time.Sleep(10 * time.Minute)
		p.src.tell(qmp.Broken)
		time.Sleep(10 * time.Minute)
		p.src.tell(qmp.NoReturn)
		time.Sleep(10 * time.Minute)
		p.at(t, fabric.MoveActive)
		if p.src.was("quit") || p.src.was("cancel") || p.srcPlane.has("finish") {
			t.Fatalf("orders %v, plane %v while the memory follows", p.src.orders, p.srcPlane.done)
		}
		p.src.tell(qmp.Completed)
		if got := <-p.srcEnd; got != fabric.MoveSettled || !p.src.was("quit") || p.srcPlane.has("restore") {
			t.Errorf("the source ended %q, orders %v, plane %v", got, p.src.orders, p.srcPlane.done)
		}
	})
}

// TestPostCopyIsNotCancelled: QEMU does cancel it, and then lets the guest run at the source, while it runs at the destination.
func TestPostCopyIsNotCancelled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying)
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.NoReturn, qmp.Stops)
		p.at(t, fabric.MoveSwitched)
		time.Sleep(time.Hour)
		p.src.tell(qmp.Copying, qmp.Cancelled, qmp.Runs)
		time.Sleep(time.Hour)
		p.at(t, fabric.MoveSwitched)
		if p.src.was("cancel") || p.src.was("resume") || p.srcPlane.has("restore") {
			t.Fatalf("orders %v, plane %v", p.src.orders, p.srcPlane.done)
		}
		p.dst.tell(qmp.Gone) // it never ran there: the destination's word lets it run here
		if got := <-p.srcEnd; got != fabric.MoveFailed || !p.srcPlane.has("restore") {
			t.Errorf("the source ended %q, plane %v", got, p.srcPlane.done)
		}
	})
}

func TestAnAgentThatBeginsAgainInPostCopy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := inPostCopy(t)
		p.cancelS()
		<-p.srcEnd
		p.src.events = make(chan qmp.Event, 16)
		p.startSource(t)
		time.Sleep(20 * time.Second) // its monitor does not answer at first
		p.src.tell(qmp.NoReturn, qmp.Stops)
		time.Sleep(time.Minute)
		synctest.Wait()
		if p.src.was("quit") {
			t.Fatalf("orders %v while the memory follows", p.src.orders)
		}
		p.src.tell(qmp.Completed)
		if got := <-p.srcEnd; got != fabric.MoveSettled || !p.src.was("quit") {
			t.Errorf("the source ended %q, orders %v", got, p.src.orders)
		}
	})
}
