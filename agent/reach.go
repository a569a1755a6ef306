package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

const (
	// reachEvery is how often each NIC asks, as the kernel's bonding does with arp_interval; reachMissed are the questions without an
	// answer after which a NIC leads nowhere.
	reachEvery  = 50 * time.Millisecond
	reachMissed = 3
	// reachAloud is every how many questions all stations are asked, where none answers.
	reachAloud = 20
)

// Asker asks stations behind a NIC whether they are there; *nic.Arping is one.
type Asker interface {
	Index() int
	Ask(target netip.Addr, all bool) error
	Answered(targets []netip.Addr) int
	Close() error
}

// newAsker opens one.
func newAsker(device string) (Asker, error) { return nic.NewArping(device) }

// reach is what is known of the way behind the NICs of uplinks that name addresses to reach.
type reach struct {
	open   func(device string) (Asker, error)
	asking map[string]*asked
	silent map[string]bool // of the last look
}

// asked is one NIC.
type asked struct {
	Asker
	targets []netip.Addr
	// missed are the questions since the last answer; asked counts all.
	missed, asked int
}

// look asks once behind every NIC of the teams, after it has read what came since the last time, and returns the NICs that lead
// nowhere: those that get no answer while another of their team does, until they get one. Where none does, the stations that are asked
// are away, or the wire behind all NICs, and to change would help nobody.
func (r *reach) look(teams map[string]team, devices map[string]int) (silent map[string]bool) {
	for name, a := range r.asking {
		if _, wanted := teams[name]; !wanted || devices[name] != a.Index() {
			_ = a.Close()
			delete(r.asking, name)
		}
	}
	for name, t := range teams {
		a := r.asking[name]
		if a == nil {
			opened, err := r.open(name)
			if err != nil {
				continue // a NIC that is not there has no link either
			}
			a = &asked{Asker: opened}
			r.asking[name] = a
		}
		a.targets = t.targets
		if a.Answered(a.targets) > 0 {
			a.missed = 0
		} else if a.asked > 0 {
			a.missed++
		}
		for _, target := range a.targets {
			_ = a.Ask(target, a.missed > 0 && a.asked%reachAloud == 0) // what cannot be sent is not answered
		}
		a.asked++
	}
	silent = map[string]bool{}
	for name, t := range teams {
		a := r.asking[name]
		if a == nil || a.missed < reachMissed {
			continue
		}
		if r.silent[name] || slices.ContainsFunc(t.nics, func(other string) bool {
			b := r.asking[other]
			return b != nil && b.asked > reachMissed && b.missed == 0
		}) {
			silent[name] = true
		}
	}
	r.silent = silent
	return silent
}

// close ends all questions.
func (r *reach) close() {
	for _, a := range r.asking {
		_ = a.Close()
	}
}

// team are the NICs of one uplink, and whom they are to reach.
type team struct {
	nics    []string
	targets []netip.Addr
}

// teams are the NICs here whose way is looked at, each with its team. The caller holds mu.
func (k *keeper) teams() map[string]team {
	if k.snap == nil {
		return nil
	}
	out := map[string]team{}
	for _, name := range externals(k.snap) {
		u := k.snap.Switches[name].UplinkOn(k.host, k.snap.Hosts[k.host])
		if u == nil || len(u.Reach) == 0 {
			continue
		}
		for _, n := range u.All() {
			if _, on := k.have.Uplinks[n]; on {
				out[n] = team{nics: u.All(), targets: u.Reach}
			}
		}
	}
	return out
}

// watchReach takes NICs out of use by which nothing is reached, and lets them in again.
func (a *Agent) watchReach(ctx context.Context) error {
	r := &reach{open: newAsker, asking: map[string]*asked{}}
	defer r.close()
	return every(ctx, reachEvery, func() {
		k := a.keeper
		k.mu.Lock()
		teams, devices := k.teams(), maps.Clone(k.present)
		k.mu.Unlock()
		if len(teams) == 0 && len(r.asking) == 0 {
			return
		}
		silent := r.look(teams, devices)
		k.mu.Lock()
		defer k.mu.Unlock()
		if !maps.Equal(silent, k.silent) {
			k.silent = silent
			k.failover(ctx, slices.Clone(k.uplinks.nics))
		}
	})
}

// lead is which NIC leads the others of a switch here, and why the best does not.
type lead struct {
	nic, why string
}

// leaders are the NICs that lead here, by their switches. The caller holds mu.
func (k *keeper) leaders() map[fabric.SwitchID]lead {
	out := map[fabric.SwitchID]lead{}
	if k.snap == nil || len(externals(k.snap)) == 0 {
		return out
	}
	status := fabric.HostStatus{NICs: k.uplinks.nics}
	for _, n := range k.reportNICs() {
		if n.Switch == "" || n.Leader != "" {
			continue
		}
		l, team := lead{nic: n.Name}, k.snap.Switches[n.Switch].NICsOn(k.host, k.snap.Hosts[k.host])
		if len(team) < 2 {
			continue
		}
		var why []string
		for _, better := range team[:max(0, slices.Index(team, n.Name))] {
			if text := nicProblem(better, status.FindNIC(better)); text != "" {
				why = append(why, text)
			}
		}
		l.why = strings.Join(why, "; ")
		out[n.Switch] = l
	}
	return out
}

// tellLeaders tells of each NIC that has begun to lead in the place of another.
func (a *Agent) tellLeaders(before, now map[fabric.SwitchID]lead) {
	for name, l := range now {
		was, led := before[name]
		if !led || was.nic == l.nic {
			continue
		}
		text := fmt.Sprintf("On host %s, %s leads the NICs of switch %s in the place of %s", a.config.Host, l.nic, name, was.nic)
		if l.why != "" {
			text += ": " + l.why
		}
		a.log.Info("another NIC leads", tracing.KeySwitch, name, "nic", l.nic, "before", was.nic)
		a.emit(a.event("uplink.leads", "switch/"+string(name), text+"."))
	}
}
