package qmp

import "context"

// RunState is query-status.
type RunState struct {
	// Running is true while the guest's processors run.
	Running bool `json:"running"`
	// Status is QEMU's word: "running", "paused", "inmigrate", "postmigrate" (qapi/run-state.json).
	Status string `json:"status"`
}

// MigrationState is query-migrate; its Status is empty when no migration was ever tried.
type MigrationState struct {
	// Status is QEMU's word: "setup", "active", "pre-switchover", "device", "completed", "failed", "cancelled",
	// and those of post-copy (qapi/migration.json).
	Status string `json:"status"`
	// Desc says why it failed, where QEMU tells.
	Desc string `json:"error-desc"`
	// Downtime is how long the guest was stopped as the source sees it, in milliseconds; set once completed.
	Downtime int64 `json:"downtime"`
}

// Status asks whether the guest runs.
func (c *Client) Status(ctx context.Context) (RunState, error) {
	var s RunState
	return s, c.Execute(ctx, "query-status", nil, &s)
}

// Migration asks how far the migration is.
func (c *Client) Migration(ctx context.Context) (MigrationState, error) {
	var s MigrationState
	return s, c.Execute(ctx, "query-migrate", nil, &s)
}

// Stop pauses the guest.
func (c *Client) Stop(ctx context.Context) error { return c.Execute(ctx, "stop", nil, nil) }

// Cont lets the guest run.
func (c *Client) Cont(ctx context.Context) error { return c.Execute(ctx, "cont", nil, nil) }

// Quit ends the machine. That the connection ends with the command is no error.
func (c *Client) Quit(ctx context.Context) error {
	err := c.Execute(ctx, "quit", nil, nil)
	if Lost(err) && ctx.Err() == nil {
		return nil
	}
	return err
}

// Migrate sends the guest to a waiting QEMU: "tcp:10.240.0.3:4444" or "unix:/path". It returns when the migration has begun.
func (c *Client) Migrate(ctx context.Context, uri string) error {
	return c.Execute(ctx, "migrate", map[string]string{"uri": uri}, nil)
}

// MigrateIncoming makes a QEMU that was started with -incoming defer wait at the address.
func (c *Client) MigrateIncoming(ctx context.Context, uri string) error {
	return c.Execute(ctx, "migrate-incoming", map[string]string{"uri": uri}, nil)
}

// MigrateCancel gives the running migration up; without one it does nothing.
func (c *Client) MigrateCancel(ctx context.Context) error {
	return c.Execute(ctx, "migrate_cancel", nil, nil)
}

// MigrateContinue lets a migration go on that waits before its switchover.
func (c *Client) MigrateContinue(ctx context.Context) error {
	return c.Execute(ctx, "migrate-continue", map[string]string{"state": "pre-switchover"}, nil)
}

// SetMigrationCapabilities turns abilities on or off: "events", "pause-before-switchover".
func (c *Client) SetMigrationCapabilities(ctx context.Context, set map[string]bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	list := make([]capability, 0, len(set))
	for name, on := range set {
		list = append(list, capability{name, on})
	}
	return c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": list}, nil)
}

// AnnounceSelf makes QEMU send RARP for each of the guest's NICs, with QEMU's default timing: 5 rounds, 50 ms before the
// second, 100 ms more each time (net/announce.c).
func (c *Client) AnnounceSelf(ctx context.Context) error {
	return c.Execute(ctx, "announce-self", map[string]int{"initial": 50, "max": 550, "rounds": 5, "step": 100}, nil)
}
