package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

// renameCommand gives objects another name.
func (a *app) renameCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rename switch OLD NEW", Short: "Give a switch another name, with its ports; what is plugged in goes on",
		Long: "Give a switch another name, with its ports, addresses and VNIs, in one transaction. VMs on a private or external switch lose no packet. An\n" +
			"internal one is refused while VMs are plugged in: the hosts' own devices on it, and the gateway with them, change their names.",
		Example: "  weft rename switch blue azure",
		Args:    exactly("KIND", "OLD", "NEW"), ValidArgsFunction: a.completeObject,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := resource(cmd, args[0])
			if err != nil {
				return err
			}
			if r.Kind != fabric.KindSwitch {
				return usage(cmd, "%s: %s keep their names; only switches are renamed", cmd.CommandPath(), r.Plural)
			}
			return a.traced(cmd, func(ctx context.Context) error {
				return a.rename(ctx, fabric.SwitchID(args[1]), fabric.SwitchID(args[2]))
			})
		},
	}
	return a.waitFlags(cmd)
}

func (a *app) rename(ctx context.Context, from, to fabric.SwitchID) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	res, err := c.RenameSwitch(ctx, from, to)
	if err != nil {
		return err
	}
	return a.changed(ctx, c, res)
}
