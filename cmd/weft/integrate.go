package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/migration/libvirt"
)

// integrateCommand makes a manager of guests use the fabric.
func (a *app) integrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "integrate", Short: "Let the guests of a hypervisor's manager use the fabric as they are", Args: exactly("libvirt"),
		RunE: func(cmd *cobra.Command, args []string) error { return usage(cmd, "weft integrate has no %q", args[0]) },
	}
	cmd.AddCommand(a.integrateLibvirt())
	return cmd
}

func (a *app) integrateLibvirt() *cobra.Command {
	var yes, undo bool
	cmd := &cobra.Command{
		Use: "libvirt", Short: "Give a host's libvirt the hooks and a network for each switch; shows the difference first", Args: exactly(),
		Long: "Show what a host's libvirt lacks for its guests to use the fabric, and with --yes, or on a word at the terminal, put it there:\n" +
			"two hooks, and a network for each switch, which from then on follow the switches by themselves. A guest says\n" +
			"<interface type='network'><source network='blue' portgroup='web'/> and nothing else: its port is made when it first starts.",
		Example: "  sudo weft integrate libvirt\n  weft --host h2 integrate libvirt --yes\n  sudo weft integrate libvirt --undo --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.integrate(ctx, undo, yes) })
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&undo, "undo", false, "leave libvirt as if weft had never been there")
	a.timeoutFlag(cmd, 30*time.Second)
	return cmd
}

// integrate shows what would change, asks, and does it.
func (a *app) integrate(ctx context.Context, undo, yes bool) error {
	ctx, cancel := a.limited(ctx)
	defer cancel()
	c, err := a.connect()
	if err != nil {
		return err
	}
	plan, err := c.IntegrateLibvirt(ctx, api.IntegrateRequest{Undo: undo, DryRun: true})
	if err != nil {
		return err
	}
	if !a.structured() {
		a.differences(plan)
	}
	if len(plan.Changes) == 0 || !yes && !a.agreed() {
		if a.structured() {
			return a.document(plan)
		}
		if len(plan.Changes) > 0 {
			a.progress("Nothing was changed. To do it: add --yes")
		}
		return nil
	}
	done, err := c.IntegrateLibvirt(ctx, api.IntegrateRequest{Undo: undo})
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(done)
	}
	a.progress("Done on %s.", done.Host)
	if done.Restart {
		a.progress("libvirtd looks for hooks only when it starts, and guests run on meanwhile: systemctl restart libvirtd")
	}
	return nil
}

// differences prints what would change.
func (a *app) differences(plan api.Integration) {
	if len(plan.Changes) == 0 {
		fmt.Fprintf(a.out, "libvirt of %s is as it should be.\n", plan.Host)
	}
	for _, c := range plan.Changes {
		fmt.Fprintf(a.out, "%s: %s\n", plan.Host, c.Object)
		for line := range strings.Lines(c.Diff) {
			fmt.Fprint(a.out, "  "+line)
		}
	}
}

// agreed asks at the terminal; without one nobody has agreed.
func (a *app) agreed() bool {
	f, is := a.in.(*os.File)
	if !is || a.structured() {
		return false
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return false
	}
	fmt.Fprint(a.err, "Do it? [y/N] ")
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(line), "y")
}

// hookCommand is what a hypervisor's hooks run.
func (a *app) hookCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hook libvirt HOOK OBJECT OPERATION SUB-OPERATION…", Hidden: true, Args: cobra.MinimumNArgs(5),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "libvirt" {
				return usage(cmd, "weft hook has no %q", args[0])
			}
			return a.hook(cmd.Context(), args[1:])
		},
	}
}

// hookPatience is for how long a hook waits for an agent that is just being started or replaced.
const hookPatience = 10 * time.Second

// hook tells the agent what libvirt is about to do. What has happened already cannot be refused: libvirt is told that all is well.
func (a *app) hook(ctx context.Context, args []string) error {
	call, matters, err := libvirt.ReadHook(args, a.in)
	if err != nil || !matters {
		return err
	}
	out := api.HypervisorCall{Act: api.HypervisorAct(call.Act), VM: call.VM}
	for _, n := range call.NICs {
		out.NICs = append(out.NICs, api.GuestNIC{MAC: n.MAC, Bridge: n.Bridge, Network: n.Network, Profile: n.Portgroup, Device: n.Device})
	}
	a.quiet = true // libvirt shows what a hook says only with its error
	past := call.Act == libvirt.Ended || call.Act == libvirt.Release || call.Act == libvirt.Unplug
	if !past {
		limited, cancel := context.WithTimeoutCause(ctx, hookPatience, errors.New("the agent of this host does not answer: start it (systemctl start weft), and try again"))
		defer cancel()
		return a.patiently(limited, func(c *client.Client) error { return c.CallHypervisor(ctx, out) })
	}
	c, err := a.connect()
	if err == nil {
		err = c.CallHypervisor(ctx, out)
	}
	if err != nil {
		fmt.Fprintln(a.err, err)
	}
	return nil
}
