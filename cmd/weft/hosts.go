package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// hostCommands are what acts on this machine rather than on the fabric.
func (a *app) hostCommands() []*cobra.Command {
	return []*cobra.Command{a.labCommand(), a.agentCommand(), a.integrateCommand(), a.hookCommand()}
}

// labCommand builds and uses several hosts on one machine.
func (a *app) labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "Several hosts on this machine, with guests: to try weft and to test it", Args: a.noSuchLabCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.labUp(), a.labDown(), a.labStatus(), a.labStart(), a.labKill(), a.labVM(), a.labExec(), a.labDemo(), a.labHelper("pump"), a.labHelper("hook"))
	return cmd
}

func (a *app) noSuchLabCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(cmd, "weft lab has no %q", args[0])
}

func (a *app) labUp() *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Make a lab: hosts as network namespaces, an underlay, an agent in each, embedded etcd", Args: exactly(),
		Example: "  sudo weft lab up --hosts 3",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lab.NeedRoot(); err != nil {
				return err
			}
			begun := time.Now()
			o.Name = a.lab
			l, err := lab.Up(cmd.Context(), o, a.progress)
			if err != nil {
				return a.labError(cmd.Context(), l, err)
			}
			a.progress("Lab %q is up in %.1f s.  Next: weft create switch blue --type private --subnet 10.10.0.0/24\nRemove everything: sudo weft lab down", l.Name, time.Since(begun).Seconds())
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Hosts, "hosts", 3, fmt.Sprintf("how many hosts, 1 to %d", lab.MaxHosts))
	f.IntVar(&o.Underlay.MTU, "mtu", 1500, "MTU of the underlay in bytes")
	f.BoolVar(&o.Underlay.IPv6, "ipv6", false, "IPv6 between the hosts")
	f.BoolVar(&o.Underlay.Segment, "segment", false, "make the underlay cut large frames, as a wire does")
	f.Float64Var(&o.Underlay.Loss, "loss", 0, "part of the frames, 0 to 1, that the underlay loses")
	f.Float64Var(&o.Underlay.Duplicate, "duplicate", 0, "part of the frames, 0 to 1, that the underlay doubles")
	f.DurationVar(&o.Underlay.Delay, "delay", 0, "delay that the underlay adds to every frame")
	return cmd
}

// labError says what to do about a lab that is half made. One that was interrupted is taken away.
func (a *app) labError(ctx context.Context, l *lab.Lab, err error) error {
	switch {
	case errors.Is(err, lab.ErrExists):
		name := cmp.Or(a.lab, "default")
		return &statusError{status: exitConflict, cause: err, message: fmt.Sprintf("lab %q is up already", name), next: "use it, make another with --lab NAME, or remove it: sudo weft lab down --lab " + name}
	case l == nil:
		return err // nothing was made
	case ctx.Err() == nil:
		return &statusError{status: exitError, cause: err, message: err.Error(), next: "what was made stays for inspection; remove it: sudo weft lab down --lab " + l.Name}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if left := l.Down(last); left != nil {
		return &statusError{status: exitError, cause: left, message: "interrupted, and what was made could not be removed: " + left.Error(), next: "try again: sudo weft lab down --lab " + l.Name}
	}
	return &statusError{status: exitError, cause: err, message: "interrupted; what was made is removed"}
}

func (a *app) labDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take the lab away: no namespace, link, pin, process or file stays", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lab.NeedRoot(); err != nil {
				return err
			}
			names, err := lab.List()
			if err != nil {
				return err
			}
			if len(names) == 0 && a.lab == "" {
				a.progress("There is no lab.")
				return nil
			}
			l, err := a.openLab()
			if errors.Is(err, fs.ErrNotExist) {
				a.progress("There is no lab %q.", a.lab)
				return nil
			}
			if err != nil {
				return err
			}
			if err := l.Down(cmd.Context()); err != nil {
				return err
			}
			a.progress("Lab %q is gone: nothing of it is left.", l.Name)
			return nil
		},
	}
}

// labView is what lab status prints.
type labView struct {
	Name   string       `json:"name"`
	Dir    string       `json:"dir"`
	Hosts  []labHost    `json:"hosts"`
	Guests []*lab.Guest `json:"guests"`
}

type labHost struct {
	Name  fabric.HostID `json:"name"`
	VTEP  netip.Addr    `json:"vtep"`
	Agent bool          `json:"agent"`
	PID   int           `json:"pid"`
}

func (a *app) labStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Which hosts, agents and guests the lab has", Args: exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			l, err := a.openLab()
			if err != nil {
				return err
			}
			v := labView{Name: l.Name, Dir: l.Dir, Guests: l.Guests}
			dead := 0
			for _, h := range lab.HostNames(l.Hosts) {
				agent := l.Agent(h)
				v.Hosts = append(v.Hosts, labHost{Name: h, VTEP: l.VTEP(h), Agent: agent.Alive(), PID: agent.PID})
				if !agent.Alive() {
					dead++
				}
			}
			if err := a.printLab(v); err != nil || dead == 0 {
				return err
			}
			return &statusError{status: exitUnhealthy, message: count(dead, "agent") + " of the lab do not run", next: "start them: sudo weft lab start; their logs are " + l.Dir + "/HOST/agent.log"}
		},
	}
}

func (a *app) printLab(v labView) error {
	if a.structured() {
		return a.document(v)
	}
	var hosts, guests [][]string
	for _, h := range v.Hosts {
		state := "gone"
		if h.Agent {
			state = fmt.Sprintf("runs as %d", h.PID)
		}
		hosts = append(hosts, []string{string(h.Name), h.VTEP.String(), state})
	}
	a.table([]string{"HOST", "VTEP", "AGENT"}, hosts)
	for _, g := range v.Guests {
		guests = append(guests, []string{g.Name, string(g.Kind), string(g.Switch), string(g.Host()), g.NIC.MAC.String(), join(g.NIC.Addresses)})
	}
	if len(guests) > 0 {
		fmt.Fprintln(a.out)
		a.table([]string{"GUEST", "KIND", "SWITCH", "HOST", "MAC", "ADDRESSES"}, guests)
	}
	return nil
}

func (a *app) labVM() *cobra.Command {
	var sw, address string
	var qemu, veth, remove bool
	o := lab.GuestOptions{}
	cmd := &cobra.Command{
		Use: "vm NAME --host HOST --switch SWITCH", Short: "Start a guest: a namespace behind a real tap, or with --qemu a small real machine", Args: exactly("NAME"),
		Example: "  sudo weft lab vm a --host h1 --switch blue\n  sudo weft lab vm c --host h2 --switch blue --qemu",
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			if remove {
				return l.RemoveGuest(cmd.Context(), args[0])
			}
			if a.host == "" || sw == "" {
				return &usageError{message: "weft lab vm: --host and --switch are needed", next: "for example: weft lab vm " + args[0] + " --host h1 --switch blue"}
			}
			o.Name, o.Host, o.Switch = args[0], fabric.HostID(a.host), fabric.SwitchID(sw)
			if o.Kind, err = guestKind(cmd, qemu, veth); err != nil {
				return err
			}
			if address != "" {
				if o.Address, err = netip.ParseAddr(address); err != nil {
					return usage(cmd, "--ip %q is not an IP address, such as 10.10.0.11", address)
				}
			}
			return a.startGuest(cmd.Context(), l, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&sw, "switch", "", "switch to plug it into")
	f.StringVar(&address, "ip", "", "its address; the fabric chooses one when absent")
	f.BoolVar(&qemu, "qemu", false, "a small real virtual machine")
	f.BoolVar(&veth, "veth", false, "a namespace behind a veth, as a container; it cannot move")
	f.DurationVar(&o.Pause, "pause", 0, "how long a namespace guest stands still when it moves")
	f.BoolVar(&remove, "remove", false, "take the guest away")
	_ = cmd.RegisterFlagCompletionFunc("switch", a.completeNames("switch"))
	return cmd
}

func guestKind(cmd *cobra.Command, qemu, veth bool) (lab.GuestKind, error) {
	switch {
	case qemu && veth:
		return "", usage(cmd, "a guest is either --qemu or --veth")
	case qemu:
		return lab.QEMU, nil
	case veth:
		return lab.Veth, nil
	}
	return lab.Pump, nil
}

// startGuest starts a guest and says what the fabric gave it.
func (a *app) startGuest(ctx context.Context, l *lab.Lab, o lab.GuestOptions) error {
	begun := time.Now()
	g, err := l.AddGuest(ctx, o, a.progress)
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(g)
	}
	fmt.Fprintf(a.out, "port/%s  %s  %s  %s  ready after %.1f s\n", g.Name, g.NIC.MAC, join(g.NIC.Addresses), g.Host(), time.Since(begun).Seconds())
	return nil
}

func (a *app) labExec() *cobra.Command {
	return &cobra.Command{
		Use: "exec NAME -- COMMAND…", Short: "Run a command in a guest, on a host, or on the wire", DisableFlagsInUseLine: true,
		Long:    "Run a command in a guest; on a host, by its name; or on the machine that is on the wire beside the fabric, as wire.",
		Example: "  sudo weft lab exec a -- ping -c 2 10.10.0.12\n  sudo weft lab exec wire -- tcpdump -nc 10 -i wire0",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, "weft lab exec: give the guest, then -- and the command")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			err = l.Exec(cmd.Context(), args[0], args[1:], lab.Streams{In: a.in, Out: a.out, Err: a.err})
			var failed *lab.ExitError
			if errors.As(err, &failed) {
				return &statusError{status: failed.Code} // the command has said why
			}
			return err
		},
	}
}

// labHelper is a command that a lab runs its own program with.
func (a *app) labHelper(name string) *cobra.Command {
	return &cobra.Command{
		Use: name, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return lab.Helper(cmd.Context(), append([]string{name}, args...), a.in, a.out)
		},
	}
}
