package migration

import "context"

// staged is the result of Stage.
type staged struct {
	Staged
	err error
}

// ready takes the result of Stage. A frame that has passed is taken first: it shows that the guest has run here.
func (r *runner) ready(ctx context.Context, s staged) {
	r.staging = nil
	r.abandon()
	for len(r.frames) > 0 {
		f, open := <-r.frames
		r.framed(ctx, f, open)
	}
	if s.err != nil {
		r.step(ctx, Event{Kind: Undone, Do: Stage, Text: s.err.Error()})
		return
	}
	r.guest = s.Guest
	r.step(ctx, Event{Kind: Done, Do: Stage, Incoming: s.Incoming})
}

// begin stages beside the main loop, because it may take seconds.
func (r *runner) begin(ctx context.Context) {
	if r.staging != nil {
		return
	}
	ctx, r.abandon = context.WithCancel(ctx)
	result := make(chan staged, 1)
	r.staging = result
	move := r.move
	go func() {
		s, err := r.stage(ctx, move)
		result <- staged{s, err}
	}()
}

// unstaging waits until no Stage is under way, so that Unstage undoes all of it.
func (r *runner) unstaging() {
	if r.staging == nil {
		return
	}
	r.abandon()
	s := <-r.staging
	r.staging = nil
	if s.err == nil {
		r.guest = s.Guest
	}
}
