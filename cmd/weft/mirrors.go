package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

// mirrorFlags are the flags of a mirror that are no fields.
type mirrorFlags struct {
	sources                []string
	labels                 map[string]string
	direction, to, max     string
	family, protocol       string
	local, remote          []string
	localPorts, remotePort []string
	limit                  time.Duration
}

// createMirror makes a mirror.
func (a *app) createMirror(dryRun *bool) *cobra.Command {
	o := &fabric.Mirror{TypeMeta: head(fabric.KindMirror)}
	var m mirrorFlags
	cmd := &cobra.Command{
		Use: "mirror NAME --source SOURCE --to SINK", Short: "Copy what ports send and receive to a port, a host or a file", Args: exactly("NAME"),
		Example: "  weft create mirror ids --source switch:blue --to port:sensor-1\n" +
			"  weft create mirror look --source web-1 --to host:h1 --protocol tcp --local-port 443 --for 10m\n" +
			"  weft create mirror keep --source vm:web-1 --to file:h1 --max 50M --truncate 128",
		RunE: a.build(o, dryRun, func() error { return m.fill(&o.Spec) }),
	}
	f := cmd.Flags()
	f.StringArrayVar(&m.sources, "source", nil, "what is copied: the name of a port, switch:NAME or vm:NAME; once for each")
	f.StringToStringVar(&m.labels, "source-label", nil, "labels, as name=value, of ports that are copied; all of them are needed")
	f.StringVar(&m.to, "to", "", "where copies go: port:NAME, host:NAME (device wm-NAME there) or file:HOST (a pcapng file there)")
	f.StringVar(&m.max, "max", "", "largest size of the file in bytes, such as 50M; 100M when empty")
	f.StringVar(&m.direction, "direction", "both", "in (what the guests receive), out (what they send) or both")
	f.StringVar(&m.family, "family", "", "copy only ipv4 or ipv6")
	f.StringVar(&m.protocol, "protocol", "", "copy only this protocol: tcp, udp, sctp, icmp, icmpv6 or a number")
	f.StringArrayVar(&m.local, "local", nil, "copy only what has the guest's address in this prefix")
	f.StringArrayVar(&m.remote, "remote", nil, "copy only what has the other end's address in this prefix")
	f.StringArrayVar(&m.localPorts, "local-port", nil, "copy only what has the guest's port in this range, such as 443 or 8000-8080")
	f.StringArrayVar(&m.remotePort, "remote-port", nil, "copy only what has the other end's port in this range")
	f.Uint32Var(&o.Spec.Sample, "sample", 0, "copy one of so many packets; 0 copies each")
	f.Uint32Var(&o.Spec.Truncate, "truncate", 0, "cut copies to so many bytes, from 64 on; 0 cuts nothing")
	f.DurationVar(&m.limit, "for", 0, "end after this time, by the kernel's own clock on each host; 0 does not end")
	labelFlag(cmd, o.Meta())
	_ = cmd.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]string{"in", "out", "both"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("source", a.completeNames("port"))
	return cmd
}

// fill reads the flags into a mirror.
func (m *mirrorFlags) fill(s *fabric.MirrorSpec) (err error) {
	s.Direction, s.For = fabric.MirrorDirection(m.direction), fabric.Duration(m.limit)
	for _, word := range m.sources {
		s.Sources = append(s.Sources, sourceOf(word))
	}
	if len(m.labels) > 0 {
		s.Sources = append(s.Sources, fabric.MirrorSource{Labels: m.labels})
	}
	if s.Sink, err = m.sink(); err != nil {
		return err
	}
	c := fabric.MirrorClause{Family: m.family, Protocol: m.protocol}
	if c.Local, err = mirrorEnd("local", m.local, m.localPorts); err != nil {
		return err
	}
	if c.Remote, err = mirrorEnd("remote", m.remote, m.remotePort); err != nil {
		return err
	}
	if c.Family != "" || c.Protocol != "" || c.Local != nil || c.Remote != nil {
		s.Filter = []fabric.MirrorClause{c}
	}
	return nil
}

// sourceOf reads a source: switch:NAME, vm:NAME, port:NAME, or the name of a port, with or without its switch's.
func sourceOf(word string) fabric.MirrorSource {
	kind, name, found := strings.Cut(word, ":")
	switch {
	case found && kind == "switch":
		return fabric.MirrorSource{Switch: fabric.SwitchID(name)}
	case found && kind == "vm":
		return fabric.MirrorSource{VM: name}
	case found && kind == "port":
		word = name
	}
	return fabric.MirrorSource{Port: portOnly(word)}
}

// portOnly is the name of a port that is written with its switch: blue/web-1.
func portOnly(word string) fabric.PortID {
	return fabric.PortID(word[strings.LastIndexByte(word, '/')+1:])
}

// sink reads --to and --max.
func (m *mirrorFlags) sink() (s fabric.MirrorSink, err error) {
	kind, name, found := strings.Cut(m.to, ":")
	if !found || name == "" {
		return s, fmt.Errorf("--to %q is no sink: write port:NAME, host:NAME or file:HOST", m.to)
	}
	switch kind {
	case "port":
		s.Port = portOnly(name)
	case "host":
		s.Host = fabric.HostID(name)
	case "file":
		s.File = &fabric.MirrorFile{Host: fabric.HostID(name)}
	default:
		return s, fmt.Errorf("--to %q is no sink: write port:NAME, host:NAME or file:HOST", m.to)
	}
	if m.max == "" {
		return s, nil
	}
	if s.File == nil {
		return s, fmt.Errorf("--max is the size of a file: it goes with --to file:HOST")
	}
	s.File.Max, err = fabric.ParseAmount(m.max)
	return s, err
}

// mirrorEnd reads the flags of one end; nil when there are none.
func mirrorEnd(end string, prefixWords, portWords []string) (*fabric.MirrorEnd, error) {
	if len(prefixWords)+len(portWords) == 0 {
		return nil, nil
	}
	e := &fabric.MirrorEnd{}
	for _, word := range prefixWords {
		p, err := netip.ParsePrefix(word)
		if a, bad := netip.ParseAddr(word); bad == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("--%s %q is neither a prefix nor an address, such as 192.0.2.0/24", end, word)
		}
		e.Prefixes = append(e.Prefixes, p)
	}
	for _, word := range portWords {
		p, err := fabric.ParsePortRange(word)
		if err != nil {
			return nil, fmt.Errorf("--%s-port: %w", end, err)
		}
		e.Ports = append(e.Ports, p)
	}
	return e, nil
}

// mirrorRow is a mirror's line in the table.
func mirrorRow(o *fabric.Mirror) (narrow, more []string) {
	s := o.Status
	state := "copies"
	switch {
	case s.Ended:
		state = "ended"
	case s.Reason != "":
		state = "idle"
	}
	narrow = []string{o.Metadata.Name, state, strconv.Itoa(len(s.Ports)), string(o.Spec.Direction), sinkWords(o), timeLeft(o, time.Now())}
	more = []string{number(o.Spec.VNI), strconv.FormatUint(s.Seen, 10), strconv.FormatUint(s.Copied, 10), strconv.FormatUint(s.Given, 10), size(s.GivenBytes), strconv.FormatUint(s.Lost, 10)}
	return narrow, more
}

// sinkWords says where the copies of a mirror go.
func sinkWords(o *fabric.Mirror) string {
	switch sink := o.Spec.Sink; {
	case sink.Port != "":
		return "port:" + string(sink.Port)
	case sink.File != nil:
		return "file:" + string(sink.File.Host)
	default:
		return "host:" + string(sink.Host)
	}
}

// timeLeft is how long a mirror goes on; empty when it does not end.
func timeLeft(o *fabric.Mirror, now time.Time) string {
	if o.Spec.Until == nil {
		return ""
	}
	return fabric.Duration(max(0, o.Spec.Until.Sub(now)).Round(time.Second)).String()
}

// describeMirror says which ports are copied, where the copies are, and why there are none.
func (a *app) describeMirror(o *fabric.Mirror) {
	s := o.Status
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, string(p))
	}
	fmt.Fprintf(a.out, "%-12s %s\n", "Copied ports", dash(strings.Join(ports, ",")))
	switch {
	case s.File != "":
		full := ""
		if s.Full {
			full = ", full: nothing more is written"
		}
		fmt.Fprintf(a.out, "%-12s %s on host %s, %s%s\n", "File", s.File, s.Host, size(s.FileBytes), full)
	case s.Device != "":
		fmt.Fprintf(a.out, "%-12s %s on host %s: tcpdump -i %s\n", "Device", s.Device, s.Host, s.Device)
	case s.Host != "":
		fmt.Fprintf(a.out, "%-12s %s\n", "Sink's host", s.Host)
	}
	if s.Reason != "" {
		fmt.Fprintf(a.out, "%-12s %s\n", "Reason", s.Reason)
	}
}
