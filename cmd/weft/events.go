package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// eventsCommand prints what happened.
func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "What happened on all hosts, oldest first; --host NAME takes one", Args: exactly(),
		Example: "  weft events -f\n  weft events --host h2 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			err := a.events(cmd.Context(), follow)
			if errors.Is(err, context.Canceled) {
				return nil // the user has seen enough
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	return cmd
}

// events prints the events of all hosts or of one.
func (a *app) events(ctx context.Context, follow bool) error {
	return a.eachEvent(ctx, follow, a.event)
}

// eachEvent tells the events of all hosts or of one. When the agent that is asked ends, another one goes on where it was.
func (a *app) eachEvent(ctx context.Context, follow bool, tell func(fabric.Event) error) error {
	var hosts []fabric.HostID
	if a.host != "" {
		hosts = []fabric.HostID{fabric.HostID(a.host)}
	}
	told := map[fabric.HostID]time.Time{}
	look := func(c *client.Client) error {
		before := maps.Clone(told)
		return c.Events(ctx, hosts, follow, func(e fabric.Event) error {
			if e.Type == api.HostSilent {
				a.progress("%s", e.Message)
				return nil
			}
			if at, again := before[e.Host]; again && !e.Time.After(at) {
				return nil
			}
			told[e.Host] = e.Time
			return tell(e)
		})
	}
	if follow {
		return a.patiently(ctx, look)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	return look(c)
}

func (a *app) event(e fabric.Event) error {
	if a.structured() {
		return a.line(e)
	}
	_, err := fmt.Fprintf(a.out, "%s  %-6s %-18s %-20s %s\n", e.Time.Local().Format("15:04:05.000"), e.Host, e.Type, e.Object, e.Message)
	return err
}
