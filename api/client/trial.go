package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Trial tries the network of the fabric with throw-away guests, one on each host.
type Trial struct {
	// Switch is what they are plugged into; an internal one of their own, which the hosts serve, when empty.
	Switch fabric.SwitchID
	// Hosts are those that take part: one or more.
	Hosts []fabric.HostID
	// Progress is told what is done next; it may be nil.
	Progress func(string)
}

// TrialReport is what a trial has seen.
type TrialReport struct {
	OK    bool        `json:"ok"`
	Pairs []TrialPair `json:"items"`
	// Absent are the hosts on which no guest could be started, and why.
	Absent []TrialAbsent `json:"absent,omitempty"`
}

// TrialAbsent is a host without a guest.
type TrialAbsent struct {
	Host  fabric.HostID `json:"host"`
	Error string        `json:"error"`
}

// TrialPair is what the guest of one host reaches of another's.
type TrialPair struct {
	From    fabric.HostID          `json:"from"`
	To      fabric.HostID          `json:"to"`
	Address netip.Addr             `json:"address"`
	Checks  []api.TrialCheckResult `json:"checks"`
}

// Limits of a trial.
const (
	trialsAtOnce   = 8
	trialTidyTime  = 30 * time.Second
	trialSubnets   = 8 // draws of a subnet until one is free
	trialDenied    = "denied"
	trialWideFrom  = 200 // guests, from which on a /24 may be too small
	trialSubnet4   = 24
	trialSubnet4Up = 20
)

// trial is one under way.
type trial struct {
	*Client
	Trial
	name   string // of its policy and switch, and what its ports' names begin with
	guests []trialGuest
	sw     fabric.SwitchID
}

// trialGuest is one throw-away guest.
type trialGuest struct {
	host fabric.HostID
	port fabric.Port
}

// RunTrial runs the trial, and takes everything it has made away again, whatever happens. The error is about the trial itself; what is wrong
// with the network is in the report.
func (c *Client) RunTrial(ctx context.Context, o Trial) (report TrialReport, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	t := &trial{Client: c, Trial: o, name: "weft-test-" + strings.ToLower(rand.Text()[:6]), sw: o.Switch}
	defer func() {
		tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialTidyTime)
		defer cancel()
		err = errors.Join(err, t.tidy(tidy))
	}()
	o.Progress(fmt.Sprintf("Making %d throw-away ports …", len(t.names())))
	if err := t.make(ctx); err != nil {
		return report, fmt.Errorf("make the ports of the trial: %w", err)
	}
	o.Progress("Starting a guest on each …")
	if report.Absent, err = t.begin(ctx); err != nil {
		return report, fmt.Errorf("start the guests of the trial: %w", err)
	}
	if err := t.known(ctx); err != nil {
		return report, fmt.Errorf("wait until every host knows where the guests are: %w", err)
	}
	o.Progress("Trying every pair …")
	if report.Pairs, err = t.pairs(ctx); err != nil {
		return report, fmt.Errorf("try the network: %w", err)
	}
	if err := t.confirmDenials(ctx, report.Pairs); err != nil {
		return report, fmt.Errorf("read what the trial's policy has met: %w", err)
	}
	report.OK = len(report.Absent) == 0 && !slices.ContainsFunc(report.Pairs, func(p TrialPair) bool {
		return len(p.Checks) == 0 || slices.ContainsFunc(p.Checks, func(r api.TrialCheckResult) bool { return !r.OK })
	})
	return report, nil
}

// names are the ports', one for each host; a single host has two, which reach one another.
func (t *trial) names() []string {
	hosts := t.Hosts
	if len(hosts) == 1 {
		hosts = []fabric.HostID{hosts[0], hosts[0]}
	}
	names := make([]string, len(hosts))
	for i := range hosts {
		names[i] = fmt.Sprintf("%s-%d", t.name, i+1)
	}
	return names
}

func (g trialGuest) id() fabric.PortID { return fabric.PortID(g.port.Metadata.Name) }

// make writes the records and waits until they are in force. A subnet that is taken is drawn again.
func (t *trial) make(ctx context.Context) error {
	for draw := 1; ; draw++ {
		res, err := t.Apply(ctx, t.objects(), false)
		if err != nil {
			if t.Switch == "" && draw < trialSubnets && errors.Is(err, fabric.ErrConflict) {
				continue
			}
			return err
		}
		t.guests = nil
		for i, name := range t.names() {
			p, err := t.Port(ctx, fabric.PortID(name))
			if err != nil {
				return err
			}
			t.guests = append(t.guests, trialGuest{host: t.Hosts[min(i, len(t.Hosts)-1)], port: *p})
		}
		_, err = t.WaitInForce(ctx, res.Revision)
		return err
	}
}

// objects are the trial's policy, its switch unless it was given one, and its ports.
func (t *trial) objects() []fabric.Object {
	deny := &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}}
	deny.Metadata.Name = t.name
	deny.Spec.Rules = []fabric.Rule{{
		Name: trialDenied, Weight: 1, Direction: fabric.In, Action: fabric.Deny, Protocol: "tcp",
		Local: &fabric.End{Ports: []fabric.PortRange{{First: api.TrialDeniedPort, Last: api.TrialDeniedPort}}},
	}}
	objects := []fabric.Object{deny}
	if t.Switch == "" {
		sw := &fabric.Switch{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}}
		sw.Metadata.Name, t.sw = t.name, fabric.SwitchID(t.name)
		off := false
		sw.Spec.Type, sw.Spec.Subnets, sw.Spec.HostAccess = fabric.Internal, drawSubnets(len(t.Hosts)), &off
		objects = append(objects, sw)
	}
	for i, name := range t.names() {
		p := &fabric.Port{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}}
		p.Metadata.Name, p.Metadata.Labels = name, map[string]string{api.TrialLabel: t.name}
		p.Spec.Switch, p.Spec.Policies, p.Spec.Host = t.sw, []string{t.name}, t.Hosts[min(i, len(t.Hosts)-1)]
		objects = append(objects, p)
	}
	return objects
}

// drawSubnets draws a block of the addresses for tests of networks (RFC 2544: 198.18.0.0/15), and one of unique local IPv6 addresses
// (RFC 4193).
func drawSubnets(hosts int) []netip.Prefix {
	bits := trialSubnet4
	if hosts > trialWideFrom {
		bits = trialSubnet4Up
	}
	var four [4]byte
	six := [16]byte{0xfd}
	_, _ = rand.Read(four[2:]) // never fails since Go 1.24
	_, _ = rand.Read(six[1:8])
	four[0], four[1] = 198, 18+four[3]&1
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(four), bits).Masked(), netip.PrefixFrom(netip.AddrFrom16(six), 64)}
}

// begin starts the guests; the trial goes on without those that cannot be started.
func (t *trial) begin(ctx context.Context) ([]TrialAbsent, error) {
	failed := make([]error, len(t.guests))
	err := t.each(ctx, func(ctx context.Context, i int) error {
		g := t.guests[i]
		_, failed[i] = t.Try(ctx, api.TrialRequest{Host: g.host, Act: api.TrialBegin, Port: g.id()})
		return ctx.Err()
	})
	var absent []TrialAbsent
	var begun []trialGuest
	for i, g := range t.guests {
		if failed[i] != nil {
			absent = append(absent, TrialAbsent{g.host, failed[i].Error()})
			continue
		}
		begun = append(begun, g)
	}
	t.guests = begun
	return absent, err
}

// known waits until what the hosts have said of the guests' places is in force everywhere: the first packet is not to be lost to news.
func (t *trial) known(ctx context.Context) error {
	ports, err := t.List(ctx, fabric.KindPort)
	if err != nil {
		return err
	}
	_, err = t.WaitInForce(ctx, ports.Revision)
	return err
}

// each does something for every guest, some at once.
func (t *trial) each(ctx context.Context, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(trialsAtOnce)
	for i := range t.guests {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// pairs tries every guest from every other.
func (t *trial) pairs(ctx context.Context) ([]TrialPair, error) {
	found := make([][]TrialPair, len(t.guests))
	err := t.each(ctx, func(ctx context.Context, i int) error {
		from := t.guests[i]
		for _, to := range t.guests {
			if to.id() == from.id() {
				continue
			}
			for _, address := range to.port.Spec.Addresses {
				checks, err := t.Try(ctx, api.TrialRequest{Host: from.host, Act: api.TrialCheck, Port: from.id(), Peer: address})
				if err != nil {
					return err
				}
				found[i] = append(found[i], TrialPair{From: from.host, To: to.host, Address: address, Checks: checks})
			}
		}
		return nil
	})
	return slices.Concat(found...), err
}

// confirmDenials fails the denials that show nothing: where TCP does not pass at all, or where the rule has met no packet, it was lost,
// not denied.
func (t *trial) confirmDenials(ctx context.Context, pairs []TrialPair) error {
	ports, err := t.Counted(ctx)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		to := slices.IndexFunc(t.guests, func(g trialGuest) bool { return slices.Contains(g.port.Spec.Addresses, p.Address) })
		deny, tcp := p.result("deny"), p.result("tcp")
		switch {
		case deny == nil || !deny.OK:
		case tcp == nil || !tcp.OK:
			deny.OK, deny.Detail = false, "not to be seen: TCP does not pass at all"
		case to < 0 || denials(ports.Items, t.guests[to].id()) == 0:
			deny.OK, deny.Detail = false, "no connection, but the rule has met no packet: it was lost before"
		}
	}
	return nil
}

// result is what came of one check; nil when it was not made.
func (p TrialPair) result(name string) *api.TrialCheckResult {
	for i := range p.Checks {
		if p.Checks[i].Name == name {
			return &p.Checks[i]
		}
	}
	return nil
}

// denials is how many packets the trial's rule has met at a port.
func denials(ports []fabric.Object, name fabric.PortID) uint64 {
	for _, o := range ports {
		p, is := o.(*fabric.Port)
		if !is || p.Metadata.Name != string(name) {
			continue
		}
		for _, r := range p.Status.Rules {
			if r.Rule == trialDenied {
				return r.Packets
			}
		}
	}
	return 0
}

// tidy takes away what make has made.
func (t *trial) tidy(ctx context.Context) error {
	err := t.each(ctx, func(ctx context.Context, i int) error {
		g := t.guests[i]
		_, err := t.Try(ctx, api.TrialRequest{Host: g.host, Act: api.TrialEnd, Port: g.id()})
		return err
	})
	errs := []error{err}
	remove := func(kind fabric.Kind, name string) {
		if _, err := t.Delete(ctx, kind, name); err != nil && !errors.Is(err, fabric.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	for _, name := range t.names() {
		remove(fabric.KindPort, name)
	}
	if t.Switch == "" {
		remove(fabric.KindSwitch, t.name)
	}
	remove(fabric.KindPolicy, t.name)
	return errors.Join(errs...)
}
