package agent

import (
	"context"
	"fmt"
	"sync"
)

// edit is a change of what the host knows itself that waits for its turn.
type edit struct {
	change func(*local) error
	done   bool
	err    error
}

// waiting are the edits whose turn has not come. Whoever's comes makes all of them: a host whose guests start together would otherwise
// write its file, and look at all its devices, once for each.
type waiting struct {
	mu    sync.Mutex
	edits []*edit
}

func (w *waiting) add(e *edit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.edits = append(w.edits, e)
}

func (w *waiting) take() []*edit {
	w.mu.Lock()
	defer w.mu.Unlock()
	edits := w.edits
	w.edits = nil
	return edits
}

// change changes what the host knows itself, durably, and puts it in force; whether that succeeded, the status tells. An edit that
// refuses changes nothing.
func (k *keeper) change(ctx context.Context, change func(*local) error) error {
	e := &edit{change: change}
	k.waiting.add(e)
	k.mu.Lock()
	defer k.mu.Unlock()
	if !e.done {
		k.changeAll(context.WithoutCancel(ctx), k.waiting.take()) // the others' callers have not given up
	}
	return e.err
}

// changeAll makes edits together. The caller holds mu.
func (k *keeper) changeAll(ctx context.Context, edits []*edit) {
	made, err := k.makeEdits(edits)
	for _, e := range edits {
		e.done = true
		if e.err == nil {
			e.err = err
		}
	}
	if made {
		k.round(ctx)
	}
}

// makeEdits makes durable what does not refuse, and reports whether that was anything. The caller holds mu.
func (k *keeper) makeEdits(edits []*edit) (made bool, err error) {
	present, err := k.devices()
	if err != nil {
		return false, fmt.Errorf("list the host's devices: %w", err)
	}
	k.lookAtDevices(present)
	next := k.local
	for _, e := range edits {
		draft := next.clone()
		if e.err = e.change(&draft); e.err == nil {
			next, made = draft, true
		}
	}
	if !made {
		return false, nil
	}
	if err := next.save(k.stateDir); err != nil {
		return false, err
	}
	k.local, k.want = next, nil
	return true, nil // what an edit changes of the NICs, the next check sees
}
