package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/internal/lab"
)

// labDemo plays the whole story of a fabric, as the commands a person would type.
func (a *app) labDemo() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Play the whole story: three hosts, real guests, a live migration and a packet trace", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lab.NeedRoot(); err != nil {
				return err
			}
			if a.lab == "" {
				a.lab = "demo"
			}
			d := demo{app: a, begun: time.Now()}
			err := d.play(cmd.Context())
			if keep || !d.up {
				return err
			}
			// What was made goes even when the story broke off, or was interrupted.
			last, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), time.Minute)
			defer cancel()
			d.say("Nothing stays behind: no namespace, link, BPF pin, process or file.")
			return errors.Join(err, d.run(last, "lab", "down"))
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab up at the end")
	return cmd
}

// demo is one performance.
type demo struct {
	app   *app
	begun time.Time
	step  int
	// up is true once the lab is this performance's, and not one that was there.
	up bool
}

// say announces the next step in plain words.
func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.app.out, "\n%s\n", d.app.paint(d.app.out, bold, fmt.Sprintf("%d. ", d.step)+fmt.Sprintf(format, args...)))
}

// run shows a command and carries it out, as if it had been typed.
func (d *demo) run(ctx context.Context, args ...string) error {
	fmt.Fprintln(d.app.out, d.app.paint(d.app.out, dim, "$ weft "+strings.Join(args, " ")))
	typed := newApp(d.app.in, d.app.out, d.app.err)
	defer typed.close()
	root := typed.root()
	root.SetArgs(append([]string{"--lab", d.app.lab, "--color", d.app.color}, args...))
	if err := root.ExecuteContext(ctx); err != nil {
		return fmt.Errorf("weft %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// all runs commands one after the other.
func (d *demo) all(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if err := d.run(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// play is the story.
func (d *demo) play(ctx context.Context) error {
	d.say("Three hosts on this machine: a network namespace each, joined by an underlay, an agent and an etcd member in each.")
	err := d.all(ctx, "lab up --hosts 3")
	if d.up = !errors.Is(err, lab.ErrExists); err != nil {
		return err
	}
	d.say("One switch, defined once: it exists on every host. VNI, MTU, MACs and addresses come from the fabric.")
	if err := d.all(ctx, "create switch blue --type private --subnet 10.10.0.0/24", "get switches"); err != nil {
		return err
	}
	d.say("Three guests: two in namespaces behind real taps, and one real virtual machine.")
	if err := d.all(ctx, "lab vm a --host h1 --switch blue", "lab vm b --host h2 --switch blue", "lab vm c --host h2 --switch blue --qemu", "get ports"); err != nil {
		return err
	}
	d.say("They reach one another across hosts.")
	b, c, err := d.addresses()
	if err != nil {
		return err
	}
	if err := d.all(ctx, "lab exec a -- ping -c 3 -i 0.2 "+b, "lab exec c -- ping -c 3 "+b); err != nil {
		return err
	}
	d.say("The virtual machine moves to another host while it is pinged and a TCP connection to it stays open.")
	if err := d.migrate(ctx, c); err != nil {
		return err
	}
	d.say("Any packet can be followed across hosts, with what decided about it.")
	if err := d.all(ctx, "trace a c tcp/7"); err != nil {
		return err
	}
	d.say("The whole fabric on one screen.")
	if err := d.all(ctx, "status --wait"); err != nil {
		return err
	}
	fmt.Fprintf(d.app.out, "\nThat was weft, in %.0f seconds.\n", time.Since(d.begun).Seconds())
	return nil
}

// addresses are those of the guests b and c.
func (d *demo) addresses() (b, c string, err error) {
	l, err := lab.Open(d.app.lab)
	if err != nil {
		return "", "", err
	}
	gb, err := l.Guest("b")
	if err != nil {
		return "", "", err
	}
	gc, err := l.Guest("c")
	if err != nil {
		return "", "", err
	}
	if len(gb.NIC.Addresses) == 0 || len(gc.NIC.Addresses) == 0 {
		return "", "", errors.New("the fabric gave a guest no address")
	}
	return gb.NIC.Addresses[0].Addr().String(), gc.NIC.Addresses[0].Addr().String(), nil
}

// migrate moves the virtual machine under load and says what the load saw.
func (d *demo) migrate(ctx context.Context, address string) error {
	l, err := lab.Open(d.app.lab)
	if err != nil {
		return err
	}
	guest, err := l.Guest("c")
	if err != nil {
		return err
	}
	stream, err := l.OpenStream(ctx, "a", guest.NIC.Addresses[0].Addr())
	if err != nil {
		return err
	}
	ping, err := startPing(l.Command(ctx, "a", "ping", "-n", "-i", "0.02", address))
	if err != nil {
		return errors.Join(err, stop(stream, d))
	}
	moved := d.run(ctx, "migrate", "c", "--to", "h3", "--relay", "2s")
	sent, answered, err := ping.end(ctx)
	if err == nil {
		fmt.Fprintf(d.app.out, "Pinged every 20 ms meanwhile: %d sent, %d answered, %d lost.\n", sent, answered, sent-answered)
	}
	return errors.Join(moved, err, stop(stream, d))
}

// stop ends the stream and says what it saw.
func stop(s *lab.Stream, d *demo) error {
	r, err := s.Stop()
	if err != nil {
		return fmt.Errorf("the TCP connection broke: %w", err)
	}
	fmt.Fprintf(d.app.out, "The TCP connection stayed open: %d messages went there and back, the longest took %d ms.\n", r.Exchanges, r.LongestWait.Milliseconds())
	return nil
}
