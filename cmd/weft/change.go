package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// changed is what a change prints for programs.
type changed struct {
	api.ApplyResult
	// InForce says how far the hosts are; absent with --wait=false.
	InForce *api.InForce `json:"inForce,omitempty"`
}

// apply makes objects be as given, waits until they are in force, and prints what became of each.
func (a *app) apply(ctx context.Context, objects []fabric.Object, dryRun bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	var res api.ApplyResult
	if a.confirm > 0 && !dryRun {
		res, err = c.ApplyForNow(ctx, objects, a.confirm)
	} else {
		res, err = c.Apply(ctx, objects, dryRun)
	}
	if err != nil {
		return err
	}
	return a.changed(ctx, c, res)
}

// confirmCommand keeps a change that was made with --confirm.
func (a *app) confirmCommand() *cobra.Command {
	var held bool
	cmd := &cobra.Command{
		Use: "confirm [switch NAME]", Short: "Keep a change that was made with --confirm, or let a host go on with what it holds",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 2 && args[0] == "switch" && !held {
				return nil
			}
			return usage(cmd, "weft confirm takes nothing, or: switch NAME")
		},
		Long: "Keep a change that was made with --confirm. The host that took the change must be asked (--host chooses it).\n\n" +
			"An external switch that was created with --confirm is kept with: weft confirm switch NAME. Any host may be asked.\n\n" +
			"With --held, let the host that is asked go on with what it holds for a person's word: a change that removes more than\n" +
			"a tenth of all ports at once, or data of an etcd that went back in time. weft status says what a host holds.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return a.traced(cmd, func(ctx context.Context) error { return a.confirmSwitch(ctx, c, args[1]) })
			}
			if held {
				return a.confirmHeld(cmd.Context(), c)
			}
			p, err := c.Confirm(cmd.Context())
			if err != nil {
				return err
			}
			if a.structured() {
				return a.document(p)
			}
			fmt.Fprintf(a.out, "revision %d stays: %s\n", p.Revision, strings.Join(p.Objects, ", "))
			return nil
		},
	}
	a.waitFlags(cmd)
	cmd.Flags().BoolVar(&held, "held", false, "let the host go on with what it holds for a person's word")
	return cmd
}

// confirmHeld lets a host go on with what it holds.
func (a *app) confirmHeld(ctx context.Context, c *client.Client) error {
	done, err := c.ConfirmHeld(ctx)
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(done)
	}
	fmt.Fprintln(a.out, done.Message)
	return nil
}

// changed waits for a change that was accepted, and prints it.
func (a *app) changed(ctx context.Context, c *client.Client, res api.ApplyResult) error {
	out := changed{ApplyResult: res}
	if a.wait && !res.DryRun && slices.ContainsFunc(res.Items, func(i api.Applied) bool { return i.Outcome != api.Unchanged }) {
		f, err := c.WaitInForce(ctx, res.Revision)
		if err != nil && len(f.Hosts) == 0 {
			return err
		}
		out.InForce = &f
	}
	if err := a.printChanged(out); err != nil {
		return err
	}
	return late(out.InForce)
}

// late is the error of a change that is accepted but not in force everywhere.
func late(f *api.InForce) error {
	if f == nil || f.Done {
		return nil
	}
	var missing []string
	for _, h := range f.Hosts {
		if h.Alive && !h.InForce {
			missing = append(missing, strings.TrimSpace(fmt.Sprintf("%s is at %d. %s", h.Host, h.Generation, strings.Join(h.Problems, ". "))))
		}
	}
	return &statusError{
		status:  exitPartial,
		message: fmt.Sprintf("accepted as revision %d, but not in force everywhere: %s", f.Revision, strings.Join(missing, "; ")),
		next:    "the hosts go on by themselves; see: weft status --wait",
	}
}

func (a *app) printChanged(c changed) error {
	if a.structured() {
		return a.document(c)
	}
	for _, i := range c.Items {
		ref := strings.ToLower(string(i.Kind)) + "/" + i.Name
		if a.output == "name" {
			fmt.Fprintln(a.out, ref)
			continue
		}
		words := []string{ref, string(i.Outcome)}
		if c.DryRun {
			words = append(words, "(dry run)")
		}
		if d := allocated(i); d != "" {
			words = append(words, " ", d)
		}
		fmt.Fprintln(a.out, strings.Join(words, " "))
	}
	if c.Pending != nil {
		a.progress("It is undone at %s unless you keep it with: weft confirm", c.Pending.UndoneAt.Local().Format(time.TimeOnly))
	}
	if c.InForce != nil && c.InForce.Done {
		a.progress("In force on %s as revision %d.", reached(*c.InForce), c.Revision)
	}
	return nil
}

// reached says how many hosts have a change in force, and who is away.
func reached(f api.InForce) string {
	n := 0
	var away []string
	for _, h := range f.Hosts {
		switch {
		case h.InForce:
			n++
		case !h.Alive:
			away = append(away, string(h.Host))
		}
	}
	s := fmt.Sprintf("%d/%d hosts", n, len(f.Hosts))
	if len(away) > 0 {
		s += " (" + strings.Join(away, ", ") + " away)"
	}
	return s
}

// allocated says what the fabric chose for an object.
func allocated(i api.Applied) string {
	if len(i.Object) == 0 {
		return ""
	}
	o, err := fabric.New(i.Kind)
	if err != nil || json.Unmarshal(i.Object, o) != nil {
		return "" // an older client and a newer server: the outcome is told all the same
	}
	switch o := o.(type) {
	case *fabric.Switch:
		words := []string{string(o.Spec.Type), fmt.Sprintf("vni %d", o.Spec.VNI)}
		if len(o.Spec.Subnets) > 0 {
			words = append(words, join(o.Spec.Subnets))
		}
		if o.Status.MTU != 0 {
			words = append(words, fmt.Sprintf("mtu %d", o.Status.MTU))
		}
		return strings.Join(words, " · ")
	case *fabric.Port:
		words := []string{o.Spec.MAC.String()}
		if len(o.Spec.Addresses) > 0 {
			words = append(words, join(o.Spec.Addresses))
		}
		return strings.Join(append(words, "switch "+string(o.Spec.Switch)), " · ")
	}
	return ""
}

// create applies an object that must not exist yet.
func (a *app) create(ctx context.Context, o fabric.Object, dryRun bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	_, err = c.Get(ctx, o.Type().Kind, o.Meta().Name)
	switch {
	case err == nil:
		ref := fabric.Ref(o)
		return &api.Error{
			Code: api.CodeConflict, Object: ref, Message: fmt.Sprintf("create %s: it exists already", ref),
			Next: "change it with: weft set " + strings.Replace(ref, "/", " ", 1) + " FIELD=VALUE",
		}
	case !errors.Is(err, fabric.ErrNotFound):
		return err
	}
	if sw, ok := o.(*fabric.Switch); ok && len(sw.Spec.Uplinks) > 0 {
		if err := a.tellUplinks(ctx, c, sw, dryRun); err != nil {
			return err
		}
	}
	return a.apply(ctx, []fabric.Object{o}, dryRun)
}
