package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// observeCommand shows what becomes of packets, as it happens.
func (a *app) observeCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "observe [PORT…]", Short: "What becomes of guests' packets: decisions of rules with log, refusals, drops; -f goes on",
		Long: "Print what the datapath says about guests' packets: what rules with log have decided, what a port refuses and why, and with -f\n" +
			"every second what was dropped where. weft events has all other news, too.",
		Example:           "  weft observe -f\n  weft observe -f web-1 -o json",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, ports []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return seenEnough(a.observe(cmd.Context(), ports, follow))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	return cmd
}

// observe prints events of the datapath, and drops with follow; one line at a time.
func (a *app) observe(ctx context.Context, ports []string, follow bool) error {
	ours := func(e fabric.Event) error {
		if !ofDatapath(e) || len(ports) > 0 && !slices.Contains(ports, strings.TrimPrefix(e.Object, "port/")) {
			return nil
		}
		return a.event(e)
	}
	if !follow {
		return a.eachEvent(ctx, false, ours)
	}
	counts := *a // the other one's connection is made anew when its agent ends
	counts.agent = nil
	defer func() {
		if counts.agent != nil {
			counts.agent.Close()
		}
	}()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	var both sync.WaitGroup
	run := func(do func() error) { both.Go(func() { stop(do()) }) }
	run(func() error {
		return a.eachEvent(ctx, true, func(e fabric.Event) error {
			mu.Lock()
			defer mu.Unlock()
			return ours(e)
		})
	})
	run(func() error {
		return counts.followDrops(ctx, ports, func(at time.Time, d tracing.Drop) error {
			mu.Lock()
			defer mu.Unlock()
			return a.printDrop(at, d)
		})
	})
	both.Wait()
	return context.Cause(ctx)
}

// ofDatapath reports whether an event is about guests' packets.
func ofDatapath(e fabric.Event) bool {
	return slices.Contains([]string{"policy.decided", "port.refused", "port.stood-in", "datapath.contested", "datapath.foreign-program"}, e.Type)
}
