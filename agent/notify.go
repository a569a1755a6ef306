package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd that the agent is ready and alive (sd_notify(3)); without systemd it does nothing.
type notifier struct {
	log *slog.Logger
}

// ready says that the host does its work, and what that is.
func (n notifier) ready(status string) {
	n.send(fmt.Sprintf("%s\nSTATUS=%s", daemon.SdNotifyReady, status))
}

// stopping says that the agent ends; the datapath goes on.
func (n notifier) stopping() {
	n.send(daemon.SdNotifyStopping + "\nSTATUS=The agent stops; the datapath goes on.")
}

// watch tells the watchdog at half its interval that alive still answers, until ctx ends.
func (n notifier) watch(ctx context.Context, alive func(context.Context) bool) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil // no watchdog, or one meant for another process
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if alive(ctx) {
				n.send(daemon.SdNotifyWatchdog)
			}
		}
	}
}

func (n notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd was not told how the agent is", "error", err)
	}
}
