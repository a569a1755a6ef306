package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

// createCommand makes objects from flags.
func (a *app) createCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "create KIND NAME", Short: "Create a switch, port, profile, policy, group or mirror", Args: a.noSuchKind, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var dryRun bool
	cmd.PersistentFlags().BoolVar(&dryRun, "plan", false, "say what would be created, and create nothing")
	for _, sub := range []*cobra.Command{a.createSwitch(&dryRun), a.createPort(&dryRun), a.createProfile(&dryRun), a.createPolicy(&dryRun), a.createGroup(&dryRun), a.createMirror(&dryRun)} {
		cmd.AddCommand(a.waitFlags(a.confirmFlag(sub)))
	}
	return cmd
}

// noSuchKind is the Args of create itself.
func (a *app) noSuchKind(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(cmd, "there is no kind %q that can be created; the kinds are switch, port, profile, policy, group, mirror", args[0])
}

// build runs a create command: fill the object from the flags, then create it.
func (a *app) build(o fabric.Object, dryRun *bool, fill func() error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.checkOutput(); err != nil {
			return err
		}
		o.Meta().Name = args[0]
		if err := fill(); err != nil {
			return usage(cmd, "%s: %v", cmd.CommandPath(), err)
		}
		o.Default()
		if err := o.Validate(); err != nil {
			return fmt.Errorf("create %s: %w", fabric.Ref(o), err)
		}
		return a.traced(cmd, func(ctx context.Context) error { return a.create(ctx, o, *dryRun) })
	}
}

func (a *app) createSwitch(dryRun *bool) *cobra.Command {
	o := &fabric.Switch{TypeMeta: head(fabric.KindSwitch)}
	var kind, mode string
	var subnets, uplinks, hosts, reach []string
	var vni uint32
	var noHost bool
	var nat natFlags
	cmd := &cobra.Command{
		Use: "switch NAME", Short: "Create a switch on all hosts", Args: exactly("NAME"),
		Example: "  weft create switch blue --type private --subnet 10.10.0.0/24\n" +
			"  weft create switch green --type internal --subnet 10.20.0.0/24 --nat\n" +
			"  weft create switch wan --type external --uplink h1=eth1,h2=eno1 --confirm 60s",
		RunE: a.build(o, dryRun, func() (err error) {
			o.Spec.Type, o.Spec.VNI = fabric.SwitchType(kind), fabric.VNI(vni)
			if o.Spec.Subnets, err = prefixes("--subnet", subnets); err != nil {
				return err
			}
			for _, h := range hosts {
				o.Spec.Hosts = append(o.Spec.Hosts, fabric.HostID(h))
			}
			if o.Spec.Uplinks, err = uplinksOf(uplinks, mode, reach); err != nil {
				return err
			}
			a.external(o, noHost)
			return nat.fill(o)
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&hosts, "on", nil, "host that the switch is on, and no other; all hosts when absent")
	f.StringSliceVar(&uplinks, "uplink", nil, "NIC that an external switch is on, as HOST=NIC, or LABEL=VALUE:NIC for all hosts with that label; several NICs as eth1+eth2")
	f.StringVar(&mode, "uplink-mode", "", "how several NICs of a host serve the guests: active-standby (the default), hash-port or hash-flow")
	f.StringSliceVar(&reach, "reach", nil, "address on the wire that NICs are to reach, such as the router's: one that does not, while another does, is not used")
	f.BoolVar(&nat.nat, "nat", false, "let guests of an internal switch reach the world by the host they run on, under its address")
	f.StringArrayVar(&nat.forwards, "forward", nil, "lead from a port of every host to a guest, as tcp/8080=web-1:80; asks for --nat")
	f.BoolVar(&noHost, "no-host-access", false, "keep the hosts themselves off the switch: of an external one they lose what they use those NICs for,\nof an internal one guests reach DHCP, DNS and ping at the gateway alone")
	f.StringVar(&kind, "type", string(fabric.Private), "external (on a physical NIC), internal (VMs and hosts) or private (VMs only)")
	f.StringArrayVar(&subnets, "subnet", nil, "prefix that port addresses come from; once for IPv4, once for IPv6")
	f.IntVar(&o.Spec.MTU, "mtu", 0, "the guests' MTU in bytes; 0 computes it from the underlay")
	f.Uint32Var(&vni, "vni", 0, "VXLAN network identifier; 0 allocates one")
	f.StringVar(&o.Spec.Profile, "profile", "", "profile of ports that name none")
	a.policyFlag(cmd, &o.Spec.Policies)
	defaultFlag(cmd, &o.Spec.DefaultAction)
	labelFlag(cmd, o.Meta())
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeNames("host"))
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"external", "internal", "private"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("profile", a.completeNames("profile"))
	return cmd
}

func (a *app) createPort(dryRun *bool) *cobra.Command {
	o := &fabric.Port{TypeMeta: head(fabric.KindPort)}
	var sw, mac, host string
	var addresses []string
	cmd := &cobra.Command{
		Use: "port NAME --switch SWITCH", Short: "Create a port for a VM", Args: exactly("NAME"),
		Example: "  weft create port web-1 --switch blue --address 10.10.0.11\n  weft create port web-2 --switch-label net=prod",
		RunE: a.build(o, dryRun, func() (err error) {
			o.Spec.Switch, o.Spec.Host = fabric.SwitchID(sw), fabric.HostID(host)
			if mac != "" {
				if o.Spec.MAC, err = fabric.ParseMAC(mac); err != nil {
					return err
				}
			}
			for _, s := range addresses {
				ip, err := netip.ParseAddr(s)
				if err != nil {
					return fmt.Errorf("--address %q is not an IP address, such as 10.10.0.11 or fd00::11", s)
				}
				o.Spec.Addresses = append(o.Spec.Addresses, ip)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&sw, "switch", "", "switch to plug it into")
	f.StringToStringVar(&o.Spec.SwitchLabels, "switch-label", nil, "instead of --switch: labels, as name=value, of the switches to choose from")
	f.StringVar(&o.Spec.VM, "vm", "", "the machine it belongs to; the port's name when empty")
	f.StringVar(&mac, "mac", "", "MAC address; allocated when empty")
	f.StringArrayVar(&addresses, "address", nil, "IP address; allocated from the switch's subnets when absent")
	f.StringVar(&o.Spec.Profile, "profile", "", "profile with its settings")
	a.policyFlag(cmd, &o.Spec.Policies)
	vlanFlag(cmd, &o.Spec.Settings)
	limitFlags(cmd, &o.Spec.Settings)
	settingFlags(cmd, &o.Spec.Settings)
	allowedFlag(cmd, &o.Spec.Settings)
	f.StringVar(&host, "on", "", "host where it is wanted first")
	labelFlag(cmd, o.Meta())
	needOne(cmd, "switch", "switch-label", "blue")
	_ = cmd.RegisterFlagCompletionFunc("switch", a.completeNames("switch"))
	_ = cmd.RegisterFlagCompletionFunc("profile", a.completeNames("profile"))
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeNames("host"))
	return cmd
}

func (a *app) createProfile(dryRun *bool) *cobra.Command {
	o := &fabric.Profile{TypeMeta: head(fabric.KindProfile)}
	var off []string
	cmd := &cobra.Command{
		Use: "profile NAME", Short: "Create a named set of port settings", Args: exactly("NAME"),
		Example: "  weft create profile router --no-guard ip --no-guard ra",
		RunE:    a.build(o, dryRun, func() error { return turnOff(&o.Spec.Guards, off) }),
	}
	cmd.Flags().StringArrayVar(&off, "no-guard", nil, "guard to turn off: mac, ip, arp, dhcpServer, ra, l2Control or vxlan")
	a.policyFlag(cmd, &o.Spec.Policies)
	vlanFlag(cmd, &o.Spec.Settings)
	limitFlags(cmd, &o.Spec.Settings)
	settingFlags(cmd, &o.Spec.Settings)
	defaultFlag(cmd, &o.Spec.DefaultAction)
	labelFlag(cmd, o.Meta())
	return cmd
}

func (a *app) createGroup(dryRun *bool) *cobra.Command {
	o := &fabric.Group{TypeMeta: head(fabric.KindGroup)}
	var cidrs []string
	cmd := &cobra.Command{
		Use: "group NAME", Short: "Create a named set of ports and addresses", Args: exactly("NAME"),
		Example: "  weft create group web --port-label tier=web --cidr 192.0.2.0/24",
		RunE: a.build(o, dryRun, func() (err error) {
			o.Spec.CIDRs, err = prefixes("--cidr", cidrs)
			return err
		}),
	}
	cmd.Flags().StringToStringVar(&o.Spec.Ports, "port-label", nil, "label that ports of the group carry; all of them are needed")
	cmd.Flags().StringArrayVar(&cidrs, "cidr", nil, "prefix whose addresses are in the group")
	labelFlag(cmd, o.Meta())
	return cmd
}

func head(k fabric.Kind) fabric.TypeMeta {
	return fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: k}
}

func labelFlag(cmd *cobra.Command, m *fabric.Metadata) {
	cmd.Flags().StringToStringVarP(&m.Labels, "label", "l", nil, "label, as name=value")
}

// prefixes reads the values of a flag that takes prefixes.
func prefixes(flag string, words []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range words {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s %q is not a prefix, such as 10.10.0.0/24 or fd00::/64", flag, s)
		}
		out = append(out, p)
	}
	return out, nil
}

// turnOff turns guards off by name.
func turnOff(g *fabric.Guards, names []string) error {
	off := false
	guards := map[string]**bool{"mac": &g.MAC, "ip": &g.IP, "arp": &g.ARP, "dhcpserver": &g.DHCPServer, "ra": &g.RA, "l2control": &g.L2Control, "vxlan": &g.VXLAN}
	for _, n := range names {
		guard, ok := guards[strings.ToLower(n)]
		if !ok {
			return fmt.Errorf("there is no guard %q; the guards are mac, ip, arp, dhcpServer, ra, l2Control, vxlan", n)
		}
		*guard = &off
	}
	return nil
}
