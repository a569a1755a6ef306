package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// setCommand changes fields of one object.
func (a *app) setCommand() *cobra.Command {
	var dryRun bool
	var settings fabric.Settings
	cmd := &cobra.Command{
		Use: "set KIND NAME FIELD=VALUE…", Short: "Change fields of an object",
		Long: "Change fields of an object. A field is a path below spec, or begins with labels. or annotations.; a value is YAML,\n" +
			"and nothing after the = takes the field away.",
		Example:           "  weft set switch blue mtu=1400\n  weft set port web-1 profile=gold labels.tier=web guards.ip=false\n  weft set port web-1 --vlan 10",
		ValidArgsFunction: a.completeObject,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 3 && (settings.VLAN == nil || len(args) < 2) {
				return exactly("KIND", "NAME", "FIELD=VALUE")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := a.settable(cmd, args[0])
			if err != nil {
				return err
			}
			fields := args[2:]
			if settings.VLAN != nil {
				field, err := vlanField(settings.VLAN)
				if err != nil {
					return err
				}
				fields = append(fields, field)
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.set(ctx, r, args[1], fields, dryRun) })
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and write nothing")
	vlanFlag(cmd, &settings)
	return a.waitFlags(a.confirmFlag(cmd))
}

// settable reads a KIND that users may write.
func (a *app) settable(cmd *cobra.Command, word string) (api.Resource, error) {
	r, err := resource(cmd, word)
	if err == nil && !r.Settable {
		return r, usage(cmd, "%s: %s are written by the hosts themselves", cmd.CommandPath(), r.Plural)
	}
	return r, err
}

func (a *app) set(ctx context.Context, r api.Resource, name string, assignments []string, dryRun bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	o, err := c.Get(ctx, r.Kind, name)
	if err != nil {
		return err
	}
	// The object keeps the revision it was read at, so that a change made meanwhile by somebody else is a conflict.
	if o, err = api.Set(o, assignments); err != nil {
		return err
	}
	return a.apply(ctx, []fabric.Object{o}, dryRun)
}

// deleteCommand removes objects.
func (a *app) deleteCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete KIND NAME…", Short: "Delete objects, refused while something uses them; deleting a move gives it up",
		ValidArgsFunction: a.completeObject,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactly("KIND", "NAME")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := resource(cmd, args[0])
			if err == nil && r.Kind == fabric.KindMove {
				return a.traced(cmd, func(ctx context.Context) error { return a.abort(ctx, args[1:]) })
			}
			if err == nil && !r.Deletable {
				err = usage(cmd, "%s: %s are written by the hosts themselves", cmd.CommandPath(), r.Plural)
			}
			if err != nil {
				return err
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.delete(ctx, r, args[1:], force) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete ports although they are plugged in, and cut their guests off")
	return a.waitFlags(cmd)
}

// delete removes objects one after the other, and stops at the first that cannot go; those before it are told of.
func (a *app) delete(ctx context.Context, r api.Resource, names []string, force bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	var all api.ApplyResult
	var failed error
	for i, name := range names {
		var res api.ApplyResult
		if force && r.Kind == fabric.KindPort {
			res, failed = c.DeletePlugged(ctx, fabric.PortID(name))
		} else {
			res, failed = c.Delete(ctx, r.Kind, name)
		}
		if failed != nil && i > 0 {
			failed = fmt.Errorf("%d of %d deleted: %w", i, len(names), failed)
		}
		if failed != nil {
			break
		}
		all.Items = append(all.Items, res.Items...)
		all.Revision, all.TraceID = res.Revision, res.TraceID
	}
	if len(all.Items) == 0 {
		return failed
	}
	err = a.changed(ctx, c, all)
	return cmp.Or(failed, err)
}

// aborted says what has come of an abort so far: the source's host alone knows whether its guest is still there.
func aborted(m *fabric.Move) string {
	if api.Over(m.Status.Phase) {
		return fmt.Sprintf("Move %s of %s to %s is given up: it stays on %s.", m.Metadata.Name, m.Spec.VM, m.Spec.To, m.Spec.From)
	}
	return fmt.Sprintf("Host %s is asked to give move %s of %s to %s up: see 'weft get moves'.", m.Spec.From, m.Metadata.Name, m.Spec.VM, m.Spec.To)
}

// abort gives moves up.
func (a *app) abort(ctx context.Context, names []string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	for _, name := range names {
		m, err := c.AbortMove(ctx, fabric.MoveID(name))
		if err != nil {
			return err
		}
		if a.structured() {
			err = a.document(api.MigrationOf(m))
		} else {
			_, err = fmt.Fprintln(a.out, aborted(m))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
