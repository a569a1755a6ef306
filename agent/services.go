package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/weftnet/weft/agent/services"
	"github.com/weftnet/weft/fabric"
)

// keepServices serves the guests of this host's internal switches (ADR 14) whenever something has changed, and looks each second,
// because nobody tells of a table that was changed. It never ends the agent: what is wrong with a service is told, and tried again.
func (a *Agent) keepServices(ctx context.Context) error {
	if a.machine.HostEnds == nil { // a machine in memory
		return nil
	}
	k := services.New(services.Options{
		Host: a.config.Host, File: a.config.path("forwarding"), Logger: a.log, Trouble: a.trouble,
		Notify: func(kind, object, text string) { a.emit(a.event(kind, object, text)) },
	})
	defer func() { a.trouble("services", k.Close()) }()
	a.served.Store(k)
	for ctx.Err() == nil {
		change := a.news.wait()
		if snap := a.keeper.snapshot(); snap != nil {
			a.serveGuests(ctx, k, snap)
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(checkEvery):
		}
	}
	return nil
}

// serveGuests is one round; a panic in it is trouble like any other.
func (a *Agent) serveGuests(ctx context.Context, k *services.Keeper, snap *fabric.Snapshot) {
	defer func() {
		var err error
		if cause := recover(); cause != nil {
			a.log.Error("a round of services has panicked", "cause", cause, "stack", string(debug.Stack()))
			err = fmt.Errorf("a round of services has panicked: %v", cause)
		}
		a.trouble("services", err)
	}()
	k.Keep(ctx, snap)
}
