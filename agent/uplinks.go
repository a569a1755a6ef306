package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// uplinks is what the keeper knows of NICs: this host's, and what the other hosts report of theirs.
type uplinks struct {
	nics []fabric.NICStatus
	// fit are the NICs here that a switch can be on, others those of the hosts that report.
	fit         map[string]bool
	others      map[fabric.HostID]map[string]bool
	unconfirmed map[fabric.SwitchID]bool
	// idle are those that a switch could be on, and that lead nowhere now; since is when the others began to be fit, settled are those that
	// have been for settledAfter.
	idle, settled map[string]bool
	since         map[string]time.Time
	// missed is since when hosts do not report that did before.
	missed map[fabric.HostID]time.Time
}

// forgiven is how long a host that has stopped to report is still taken to carry for others: an agent that is replaced must not
// move the way to the wire twice.
const forgiven = 15 * time.Second

// settledAfter is how long a NIC must have had a link before it takes the guests back from another one of its switch.
const settledAfter = 5 * time.Second

// isFit reports whether a switch can be on the NIC, and frames get anywhere by it.
func isFit(n *fabric.NICStatus) bool { return n.Unfit() == "" && n.Up && n.Carrier && !n.Silent }

func fitNICs(nics []fabric.NICStatus) map[string]bool {
	fit := map[string]bool{}
	for i := range nics {
		if isFit(&nics[i]) {
			fit[nics[i].Name] = true
		}
	}
	return fit
}

// plugIns says which devices carry a port, and are no NICs. The caller holds mu.
func (k *keeper) plugIns() func(device string) bool {
	plugged := make(map[string]bool, len(k.local.Attachments))
	for _, a := range k.local.Attachments {
		plugged[a.Device] = true
	}
	return func(device string) bool { return plugged[device] }
}

// settle finds out which NICs lead nowhere, and which others have led somewhere for a while.
func (u *uplinks) settle(since map[string]time.Time, now time.Time) {
	u.idle, u.settled, u.since = map[string]bool{}, map[string]bool{}, map[string]time.Time{}
	for i := range u.nics {
		name := u.nics[i].Name
		if !u.fit[name] {
			u.idle[name] = u.nics[i].Unfit() == ""
			continue
		}
		u.since[name] = now
		if begun, before := since[name]; before {
			u.since[name] = begun
		}
		if now.Sub(u.since[name]) >= settledAfter {
			u.settled[name] = true
		}
	}
}

// lookAtNICs takes over which NICs there are, and which switches have run out of time. The caller holds mu.
func (k *keeper) lookAtNICs(nics []fabric.NICStatus, now time.Time) {
	for i := range nics {
		nics[i].Underlay, nics[i].Silent = nics[i].Name == k.underlay, k.silent[nics[i].Name]
	}
	next := uplinks{nics: nics, fit: fitNICs(nics), others: k.uplinks.others, unconfirmed: map[fabric.SwitchID]bool{}, missed: k.uplinks.missed}
	next.settle(k.uplinks.since, now)
	for id, since := range next.missed {
		if now.Sub(since) > forgiven {
			delete(next.missed, id)
			next.others = maps.Clone(next.others)
			delete(next.others, id)
			k.want = nil
		}
	}
	if k.snap != nil {
		for name, sw := range k.snap.Switches {
			if sw.Expired(now) {
				next.unconfirmed[name] = true
			}
		}
	}
	if !maps.Equal(next.fit, k.uplinks.fit) || !maps.Equal(next.idle, k.uplinks.idle) || !maps.Equal(next.settled, k.uplinks.settled) || !maps.Equal(next.unconfirmed, k.uplinks.unconfirmed) {
		k.want = nil
	}
	k.uplinks = next
}

// sameNICs reports whether the NICs are as they were when they were looked at last. The caller holds mu.
func (k *keeper) sameNICs(nics []fabric.NICStatus) bool {
	for i := range nics {
		nics[i].Silent = k.silent[nics[i].Name]
	}
	return maps.Equal(fitNICs(nics), k.uplinks.fit)
}

// failover puts the uplinks in force as their links are now, before anything else is looked at: guests wait for it. The caller holds
// mu.
func (k *keeper) failover(ctx context.Context, nics []fabric.NICStatus) {
	if k.snap == nil || len(externals(k.snap)) == 0 {
		return
	}
	if k.lookAtNICs(nics, time.Now()); k.want == nil {
		k.round(ctx)
	}
}

// hear takes over what the other hosts say of their NICs, and puts it in force where it changes anything.
func (k *keeper) hear(ctx context.Context, all map[fabric.HostID]fabric.HostStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	others := make(map[fabric.HostID]map[string]bool, len(all))
	missed := map[fabric.HostID]time.Time{}
	for id, fit := range k.uplinks.others {
		if _, reports := all[id]; !reports {
			others[id] = fit
			missed[id] = cmp.Or(k.uplinks.missed[id], time.Now())
		}
	}
	for id, s := range all {
		others[id] = fitNICs(s.NICs)
	}
	k.uplinks.missed = missed
	if reflect.DeepEqual(others, k.uplinks.others) {
		return
	}
	k.uplinks.others = others
	if k.snap == nil || len(externals(k.snap)) == 0 {
		return
	}
	k.want = nil
	k.round(ctx)
}

// externals are the switches that have uplinks anywhere.
func externals(snap *fabric.Snapshot) []fabric.SwitchID {
	var names []fabric.SwitchID
	for name, sw := range snap.Switches {
		if sw.Spec.Type == fabric.External && len(sw.Spec.Uplinks) > 0 {
			names = append(names, name)
		}
	}
	return names
}

// followUplinks follows what the hosts report, from when there is a switch with uplinks.
func (a *Agent) followUplinks(ctx context.Context) error {
	if !a.await(ctx, func() bool {
		snap := a.Latest()
		return snap != nil && len(externals(snap)) > 0
	}) {
		return nil
	}
	return a.store.FollowStatuses(ctx, func(all map[fabric.HostID]fabric.HostStatus) { a.keeper.hear(ctx, all) })
}

// endUnconfirmed removes switches that nobody has confirmed in time. Their uplinks are off by then on every host, by its own clock; one
// that has ports stays without them.
func (a *Agent) endUnconfirmed(ctx context.Context) error {
	if !a.config.Server() {
		return nil
	}
	return every(ctx, checkEvery, func() {
		snap := a.Latest()
		if snap == nil {
			return
		}
		for name, sw := range snap.Switches {
			if !sw.Expired(time.Now()) {
				continue
			}
			err := a.store.DeleteUnconfirmed(ctx, name, time.Now())
			switch {
			case err == nil:
				a.emit(a.event("switch.unconfirmed", "switch/"+string(name), fmt.Sprintf("Nobody has confirmed switch %s in time; it is deleted again.", name)))
			case !errors.Is(err, fabric.ErrConflict) && !errors.Is(err, fabric.ErrNotFound) && ctx.Err() == nil:
				a.log.Warn("a switch that was not confirmed stays for now, without its uplinks", "switch", name, "error", err)
			}
		}
	})
}

// reportNICs are the NICs with the switches that are on them. The caller holds mu.
func (k *keeper) reportNICs() []fabric.NICStatus {
	nics := slices.Clone(k.uplinks.nics)
	if k.snap == nil {
		return nics
	}
	for _, name := range externals(k.snap) {
		sw := k.snap.Switches[name]
		team := sw.NICsOn(k.host, k.snap.Hosts[k.host])
		for i := range nics {
			u, on := k.have.Uplinks[nics[i].Name]
			if on && slices.Contains(team, nics[i].Name) && k.have.Wires[sw.Spec.VNI].Device == cmp.Or(u.Leader, nics[i].Name) {
				nics[i].Switch, nics[i].Leader = name, u.Leader
			}
		}
	}
	return nics
}

// uplinkProblems says which uplinks are wanted here and cannot be. The caller holds mu.
func (k *keeper) uplinkProblems() (problems []string) {
	if k.snap == nil {
		return nil
	}
	names := externals(k.snap)
	slices.Sort(names)
	status := fabric.HostStatus{NICs: k.uplinks.nics}
	for _, name := range names {
		nics := k.snap.Switches[name].NICsOn(k.host, k.snap.Hosts[k.host])
		if len(nics) > 0 && k.uplinks.unconfirmed[name] {
			problems = append(problems, fmt.Sprintf("switch %s was not confirmed in time and is off its NICs: weft confirm switch %s puts it back, weft delete switch %s removes it", name, name, name))
			continue
		}
		for _, nic := range nics {
			if text := nicProblem(nic, status.FindNIC(nic)); text != "" {
				problems = append(problems, fmt.Sprintf("switch %s: %s", name, text))
			}
		}
	}
	return problems
}

// nicProblem says why nothing goes by a NIC that is wanted; empty when something does.
func nicProblem(nic string, n *fabric.NICStatus) string {
	switch {
	case n == nil:
		return fmt.Sprintf("there is no NIC %s here: name another one in spec.uplinks, or see ip link", nic)
	case n.Unfit() != "":
		return nic + " " + n.Unfit()
	case !n.Up:
		return fmt.Sprintf("%s is down: ip link set %s up", nic, nic)
	case !n.Carrier:
		return nic + " has no link: check its cable and the other end"
	case n.Silent:
		return nic + " has a link that leads nowhere: nothing of the uplink's reach answers there, and it does by another NIC; look at the switch behind it"
	}
	return ""
}

// announceOnWire tells the wire where a guest is that has just moved here, whatever it has said first itself.
func (a *Agent) announceOnWire(ctx context.Context, e datapath.Event) {
	snap := a.Latest()
	if snap == nil || snap.Ports[e.Port] == nil {
		return
	}
	if sw := snap.Switches[snap.Ports[e.Port].Spec.Switch]; sw == nil || len(sw.Spec.Uplinks) == 0 {
		return
	}
	if err := a.machine.Announce(ctx, e.Device); err != nil {
		a.log.Warn("the wire learns where a guest is when it speaks", tracing.KeyPort, e.Port, "error", err)
	}
}

// linkEvery is how often the links of uplinks are looked at: the kernel tells of them late.
const linkEvery = 25 * time.Millisecond

// watchLinks puts the uplinks in force anew when one of them has lost its link, or has it again.
func (a *Agent) watchLinks(ctx context.Context) error {
	var before map[fabric.SwitchID]lead
	return every(ctx, linkEvery, func() {
		a.keeper.mu.Lock()
		defer a.keeper.mu.Unlock()
		now := a.keeper.leaders()
		a.tellLeaders(before, now)
		before = now
		for _, n := range a.keeper.uplinks.nics {
			if _, on := a.keeper.have.Uplinks[n.Name]; !on {
				continue
			}
			if has, err := a.machine.HasLink(n.Name); err == nil && has != (n.Up && n.Carrier) {
				if _, nics, err := a.keeper.survey(a.keeper.plugIns()); err == nil { // else the next look
					a.keeper.failover(ctx, nics)
				}
				return
			}
		}
	})
}

// watchUplinks tells of guests' MACs that come in from the wire, once a minute at most for each NIC.
func (a *Agent) watchUplinks(ctx context.Context) error {
	seen, told := map[string]uint64{}, map[string]time.Time{}
	return every(ctx, checkEvery, func() {
		h, err := a.machine.Host(ctx)
		if err != nil {
			return // whoever repairs the datapath says so
		}
		for device, c := range h.Uplinks {
			n := c.DropsIn[tracing.ReasonOwnMACOnWire]
			if n > seen[device] && time.Since(told[device]) > time.Minute {
				told[device] = time.Now()
				a.emit(a.event("uplink.own-mac", "", fmt.Sprintf("The wire at %s brings frames with the MAC of a guest that runs here (%d so far): there is a loop, or another machine uses it.", device, n)))
			}
			seen[device] = n
		}
	})
}
