package agent

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

func TestEditsThatWaitAreMadeTogetherAndRefuseAlone(t *testing.T) {
	b := newBench(t)
	const edits = 20
	snap := blue(10, edits)
	for i := range edits {
		b.devices[fmt.Sprintf("tap-%d", i)] = 10 + i
		id := fabric.PortID(fmt.Sprintf("p%d", i))
		l := snap.Locations[id]
		l.Host = "h1"
		snap.Locations[id] = l
	}
	b.accept(t.Context(), snap)
	before := b.plane.applied
	refused := errors.New("refused")
	errs := make([]error, edits)
	b.mu.Lock() // as a round that takes its time
	var callers sync.WaitGroup
	for i := range edits {
		callers.Go(func() {
			errs[i] = b.change(t.Context(), func(l *local) error {
				l.Attachments[fabric.PortID(fmt.Sprintf("p%d", i))] = attachment{Attachment: plan.Attachment{Device: fmt.Sprintf("tap-%d", i), Kind: datapath.Tap}}
				if i%4 == 0 {
					return refused // what it has done to its draft is not kept
				}
				return nil
			})
		})
	}
	for all := 0; all < edits; {
		b.waiting.mu.Lock()
		all = len(b.waiting.edits)
		b.waiting.mu.Unlock()
	}
	b.mu.Unlock()
	callers.Wait()
	for i, err := range errs {
		if (i%4 == 0) != errors.Is(err, refused) {
			t.Errorf("edit %d: %v", i, err)
		}
	}
	if n := len(b.plane.state.Ports); n != edits-edits/4 {
		t.Errorf("%d ports in the kernel, want %d", n, edits-edits/4)
	}
	if n := b.plane.applied - before; n != 1 {
		t.Errorf("the kernel was changed %d times, want once", n)
	}
	if known, err := loadLocal(b.stateDir, time.Now()); err != nil || len(known.Attachments) != edits-edits/4 {
		t.Errorf("on disk %v, %v", known.Attachments, err)
	}
}
