package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// labStart starts agents that were killed, or that have ended.
func (a *app) labStart() *cobra.Command {
	cmd := &cobra.Command{
		Use: "start [HOST…]", Short: "Start agents that do not run; all when no host is named", ValidArgsFunction: a.completeNames("host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			hosts := lab.HostNames(l.Hosts)
			if len(args) > 0 {
				hosts = nil
				for _, word := range args {
					hosts = append(hosts, fabric.HostID(word))
				}
			}
			ctx, cancel := a.limited(cmd.Context())
			defer cancel()
			return a.startAgents(ctx, l, hosts)
		},
	}
	a.timeoutFlag(cmd, 30*time.Second)
	return cmd
}

// startAgents starts those that do not run, all before it waits for one: they need one another.
func (a *app) startAgents(ctx context.Context, l *lab.Lab, hosts []fabric.HostID) error {
	var started []fabric.HostID
	for _, host := range hosts {
		if l.Agent(host).Alive() {
			a.progress("The agent of %s runs already.", host)
			continue
		}
		if err := l.StartAgent(host); err != nil {
			return err
		}
		started = append(started, host)
	}
	begun := time.Now()
	for _, host := range started {
		if err := a.awaitAgent(ctx, l, host); err != nil {
			return err
		}
		a.progress("The agent of %s is ready after %.1f s.", host, time.Since(begun).Seconds())
	}
	return nil
}

// awaitAgent waits until a host is as the fabric says.
func (a *app) awaitAgent(ctx context.Context, l *lab.Lab, host fabric.HostID) error {
	c, err := l.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		err := c.Ready(ctx)
		if err == nil {
			return nil
		}
		if !l.Agent(host).Alive() {
			return &statusError{status: exitError, message: fmt.Sprintf("the agent of %s has ended", host), next: "see why: tail " + l.Dir + "/" + string(host) + "/agent.log"}
		}
		select {
		case <-ctx.Done():
			_, why, _ := explain(err)
			return &statusError{status: exitPartial, cause: context.Cause(ctx), message: fmt.Sprintf("the agent of %s runs, but is not ready: %s", host, why), next: "weft --host " + string(host) + " status"}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// labKill ends agents as a crash does.
func (a *app) labKill() *cobra.Command {
	return &cobra.Command{
		Use: "kill HOST…", Short: "End agents at once, as a crash does; traffic goes on", ValidArgsFunction: a.completeNames("host"),
		Example: "  sudo weft lab kill h2\n  sudo weft lab start h2",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("HOST")(cmd, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			for _, host := range args {
				if err := l.KillAgent(fabric.HostID(host)); err != nil {
					return err
				}
				a.progress("The agent of %s is dead. Start it again: sudo weft lab start %s", host, host)
			}
			return nil
		},
	}
}
