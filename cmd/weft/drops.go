package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// countEvery is how often counters are looked at while they are followed.
const countEvery = time.Second

// dropsCommand says what was dropped.
func (a *app) dropsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "drops [PORT…]", Short: "What all hosts have dropped, by port and reason; -f goes on with what they drop now",
		Example:           "  weft drops\n  weft drops -f web-1\n  weft drops --host h2 -o json",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, ports []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return seenEnough(a.drops(cmd.Context(), ports, follow))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print what is dropped from now on, once a second")
	return cmd
}

// seenEnough is nil where the user has ended what goes on for ever.
func seenEnough(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// drops prints a table, or with follow every second what has come.
func (a *app) drops(ctx context.Context, ports []string, follow bool) error {
	if follow {
		return a.followDrops(ctx, ports, func(at time.Time, d tracing.Drop) error { return a.printDrop(at, d) })
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	d, err := c.Drops(ctx)
	if err != nil {
		return err
	}
	d.Items = slices.DeleteFunc(d.Items, func(d tracing.Drop) bool { return !a.wanted(ports, d) })
	if a.structured() {
		err = a.document(d)
	} else {
		a.table(dropHead, dropRows(d.Items))
		a.silent(d.Silent)
	}
	if err == nil && len(d.Silent) > 0 {
		return &statusError{status: exitPartial}
	}
	return err
}

// wanted reports whether a drop is at one of the ports, of any where none is named, and on the host of --host.
func (a *app) wanted(ports []string, d tracing.Drop) bool {
	return (len(ports) == 0 || slices.Contains(ports, string(d.Port))) && (a.host == "" || a.host == string(d.Host))
}

// silent names the hosts of which nothing is known.
func (a *app) silent(hosts []api.SilentHost) {
	for _, s := range hosts {
		fmt.Fprintf(a.err, "host %s does not answer, so its counters are missing: %s\n", s.Host, s.Error)
	}
}

var dropHead = []string{"PACKETS", "REASON", "CLASS", "HOST", "PORT", "HYPER-V", "MEANING"}

func dropRows(drops []tracing.Drop) (rows [][]string) {
	for _, d := range drops {
		rows = append(rows, []string{strconv.FormatUint(d.Packets, 10), d.Name(), d.Class().String(), string(d.Host), d.At(), d.Reason.HyperV(), d.Doc()})
	}
	return rows
}

// followDrops tells what comes, until ctx ends.
func (a *app) followDrops(ctx context.Context, ports []string, tell func(time.Time, tracing.Drop) error) error {
	before := map[tracing.Drop]uint64{}
	known := false
	return a.repeated(ctx, func(c *client.Client) error {
		d, err := c.Drops(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		for _, drop := range d.Items {
			key := tracing.Drop{Host: drop.Host, Port: drop.Port, Reason: drop.Reason, Kernel: drop.Kernel, Device: drop.Device}
			old, there := before[key]
			before[key] = drop.Packets
			if drop.Packets < old { // plugged in anew
				old = 0
			}
			if drop.Now = drop.Packets - old; drop.Now == 0 || !there && !known || !a.wanted(ports, drop) {
				continue
			}
			if err := tell(now, drop); err != nil {
				return err
			}
		}
		known = true
		return nil
	})
}

// repeated looks once a second until ctx ends; while no agent answers it is patient.
func (a *app) repeated(ctx context.Context, look func(*client.Client) error) error {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		if err := a.patiently(ctx, look); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (a *app) printDrop(at time.Time, d tracing.Drop) error {
	if a.structured() {
		return a.line(d)
	}
	_, err := fmt.Fprintf(a.out, "%s  %-6s %-18s %-20s %d packets: %s\n", at.Local().Format("15:04:05.000"), d.Host, d.Name(), placeOf(d), d.Now, d.Doc())
	return err
}

// placeOf names where a drop was as events do.
func placeOf(d tracing.Drop) string {
	if d.Port == "" && d.Device != "" {
		return d.At()
	}
	return objectOf(d.Port)
}

// objectOf names a port as events do; empty where there is none.
func objectOf(p fabric.PortID) string {
	if p == "" {
		return "-"
	}
	return "port/" + string(p)
}
