package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// topCommand shows the busiest ports.
func (a *app) topCommand() *cobra.Command {
	var rounds, most int
	var every time.Duration
	cmd := &cobra.Command{
		Use: "top", Short: "The busiest ports of the fabric, by what their guests send and receive a second", Args: exactly(),
		Example: "  weft top\n  weft top --rounds 1 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if rounds < 0 || most < 1 || every < 100*time.Millisecond {
				return usage(cmd, "--rounds %d --most %d --every %s: give 0 or more rounds, at least 1 port, and 100ms or more", rounds, most, every)
			}
			return seenEnough(a.top(cmd.Context(), topOptions{rounds, most, every}))
		},
	}
	cmd.Flags().IntVar(&rounds, "rounds", 0, "how often to look; for ever when 0")
	cmd.Flags().IntVar(&most, "most", 20, "how many ports to show")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how long to count")
	return cmd
}

type topOptions struct {
	rounds, most int
	every        time.Duration
}

// load is what one port carries, a second.
type load struct {
	Port fabric.PortID `json:"port"`
	Host fabric.HostID `json:"host"`
	// Out is what the guest sends, In what it receives; bits count from the Ethernet header on.
	OutPackets float64 `json:"outPackets"`
	OutBits    float64 `json:"outBits"`
	InPackets  float64 `json:"inPackets"`
	InBits     float64 `json:"inBits"`
	Dropped    float64 `json:"dropped"`
}

// tally is what a port has carried so far.
type tally struct {
	at     time.Time
	status fabric.PortStatus
}

// top counts twice and prints the difference, again and again.
func (a *app) top(ctx context.Context, o topOptions) error {
	before, err := a.tallies(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for round := 0; o.rounds == 0 || round < o.rounds; round++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := a.tallies(ctx)
		if err != nil {
			return err
		}
		all := loads(before, now)
		if err := a.printTop(all[:min(len(all), o.most)]); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// tallies fetches the counters of all ports.
func (a *app) tallies(ctx context.Context) (map[fabric.PortID]tally, error) {
	out := map[fabric.PortID]tally{}
	return out, a.patiently(ctx, func(c *client.Client) error {
		ports, err := c.Counted(ctx)
		if err != nil {
			return err
		}
		for _, o := range ports.Items {
			if p, is := o.(*fabric.Port); is && p.Status.Host != "" && (a.host == "" || a.host == string(p.Status.Host)) {
				out[fabric.PortID(p.Metadata.Name)] = tally{time.Now(), p.Status}
			}
		}
		return nil
	})
}

// loads are the differences, the busiest port first. A port that counts anew, because it has moved, begins at 0.
func loads(before, now map[fabric.PortID]tally) []load {
	var out []load
	for port, t := range now {
		old, there := before[port]
		if !there {
			continue
		}
		seconds := t.at.Sub(old.at).Seconds()
		rate := func(of func(fabric.PortStatus) uint64) float64 {
			n, was := of(t.status), of(old.status)
			if n < was {
				was = 0
			}
			return float64(n-was) / seconds
		}
		out = append(out, load{
			Port: port, Host: t.status.Host,
			OutPackets: rate(func(s fabric.PortStatus) uint64 { return s.RxPackets }), OutBits: 8 * rate(func(s fabric.PortStatus) uint64 { return s.RxBytes }),
			InPackets: rate(func(s fabric.PortStatus) uint64 { return s.TxPackets }), InBits: 8 * rate(func(s fabric.PortStatus) uint64 { return s.TxBytes }),
			Dropped: rate(droppedAt),
		})
	}
	slices.SortFunc(out, func(x, y load) int {
		return cmp.Or(cmp.Compare(y.OutBits+y.InBits, x.OutBits+x.InBits), cmp.Compare(y.Dropped, x.Dropped), cmp.Compare(x.Port, y.Port))
	})
	return out
}

// droppedAt sums a port's drops. What a tap had no room for is among what the kernel dropped, where that is counted.
func droppedAt(s fabric.PortStatus) uint64 {
	var kernel uint64
	for name, n := range s.Drops {
		if _, ok := tracing.ParseKernelReason(name); ok {
			kernel += n
		}
	}
	return dropped(s) + s.QueueDrops - min(kernel, s.QueueDrops)
}

// printTop prints one look; on a terminal it takes the place of the one before.
func (a *app) printTop(all []load) error {
	if a.structured() {
		return a.line(struct {
			Items []load `json:"items"`
		}{all})
	}
	if a.coloured(a.out) {
		fmt.Fprint(a.out, "\x1b[H\x1b[J") // ECMA-48: home, erase to the end of the page
	}
	rows := make([][]string, len(all))
	for i, l := range all {
		rows[i] = []string{string(l.Port), string(l.Host), fmt.Sprintf("%.0f", l.OutPackets), short(l.OutBits), fmt.Sprintf("%.0f", l.InPackets), short(l.InBits), fmt.Sprintf("%.0f", l.Dropped)}
	}
	a.table([]string{"PORT", "HOST", "OUT PKT/S", "OUT BIT/S", "IN PKT/S", "IN BIT/S", "DROPPED/S"}, rows)
	return nil
}

// short writes a rate with the unit's prefix.
func short(n float64) string {
	for _, unit := range []struct {
		of     float64
		prefix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= unit.of {
			return fmt.Sprintf("%.2f %s", n/unit.of, unit.prefix)
		}
	}
	return fmt.Sprintf("%.0f", n)
}
