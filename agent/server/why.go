package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// watchFor is how long the drops of two ports are watched at least where probes find nothing: what keeps a guest's own packets away shows
// when the guest tries again, and a TCP SYN (RFC 6298) and ping are sent again after a second.
const watchFor = 1100 * time.Millisecond

// why says why packets of one kind do not come through from a port, or that they do.
func (s *Server) why(ctx context.Context, in *struct{ Body api.TraceRequest }) (*answer[*tracing.Examination], error) {
	v, r, err := s.traced(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	ends := v.ends(r)
	before, twice := s.dropsAt(ctx, v, ends), v.doubles(ends)
	away := s.turnedAway(ctx, v, twice)
	begun := time.Now()
	x, err := s.o.Prober.Examine(ctx, r)
	if err != nil {
		return nil, about("port/"+string(r.Source), err)
	}
	if x.Probe != nil && x.Probe.Verdict == tracing.Delivered {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Until(begun.Add(watchFor))):
		}
	}
	x.Drops = since(before, s.dropsAt(ctx, v, ends))
	x.Reach = v.reachOf(r, x)
	x.Notes = v.notes(ends)
	x.Notes = append(x.Notes, v.doubled(twice, away, s.turnedAway(ctx, v, twice))...)
	x.Notes = append(x.Notes, s.forgetful(ctx, v, x.Drops)...)
	x.Notes = append(x.Notes, full(before, s.queuesAt(v, ends), x.Drops)...)
	x.Diagnose(v.changeOf)
	v.apart(r, x.Causes)
	return &answer[*tracing.Examination]{x}, nil
}

// apart says of a destination that was not found that it is on another switch.
func (v *view) apart(r api.TraceRequest, causes []tracing.Cause) {
	from, to := v.snap.Ports[r.Source], v.snap.Ports[fabric.PortID(r.Destination)]
	if to == nil || from.Spec.Switch == to.Spec.Switch {
		return
	}
	for i := range causes {
		if c := &causes[i]; c.Reason == tracing.ReasonDstUnknown && c.Way != tracing.Back {
			c.Message += fmt.Sprintf(" Port %s is on switch %s, %s on %s: two switches are two networks.", r.Source, from.Spec.Switch, r.Destination, to.Spec.Switch)
			c.Next = "put both on one switch, or a guest that forwards on both"
		}
	}
}

// ends are the ports of a request: the source, and the destination or the port that has its address.
func (v *view) ends(r api.TraceRequest) []fabric.PortID {
	ends := []fabric.PortID{r.Source}
	if address, is := r.Address(); is {
		for _, id := range slices.Sorted(maps.Keys(v.snap.Ports)) {
			p := v.snap.Ports[id]
			if p.Spec.Switch == v.snap.Ports[r.Source].Spec.Switch && slices.Contains(p.Spec.Addresses, address) {
				return append(ends, id)
			}
		}
		return ends
	}
	return append(ends, fabric.PortID(r.Destination))
}

// counts are what two ports have dropped, and what their devices had no room for, at one moment.
type counts struct {
	drops  []tracing.Drop
	queues map[fabric.PortID]uint64
	hosts  map[fabric.PortID]fabric.HostID
}

// dropsAt asks the hosts of the ends.
func (s *Server) dropsAt(ctx context.Context, v *view, ends []fabric.PortID) counts {
	s.count(ctx, v, ends...)
	return s.queuesAt(v, ends)
}

// queuesAt reads what was counted last.
func (s *Server) queuesAt(v *view, ends []fabric.PortID) counts {
	c := counts{queues: map[fabric.PortID]uint64{}, hosts: map[fabric.PortID]fabric.HostID{}}
	seen := v.seen()
	for _, end := range ends {
		st := v.portStatus(v.snap.Ports[end], seen)
		c.queues[end], c.hosts[end] = st.QueueDrops, st.Host
		for _, name := range slices.Sorted(maps.Keys(st.Drops)) {
			if d, known := (tracing.Drop{Host: st.Host, Port: end, Packets: st.Drops[name]}).Named(name); known && d.Packets > 0 {
				c.drops = append(c.drops, d)
			}
		}
	}
	return c
}

// since says of the later drops how many came after the earlier ones.
func since(before, after counts) []tracing.Drop {
	for i := range after.drops {
		d := &after.drops[i]
		d.Now = d.Packets
		for _, b := range before.drops {
			if b.Host == d.Host && b.Port == d.Port && b.Name() == d.Name() {
				d.Now = d.Packets - min(d.Packets, b.Packets)
			}
		}
	}
	slices.SortStableFunc(after.drops, func(a, b tracing.Drop) int {
		switch {
		case a.Now > b.Now:
			return -1
		case a.Now < b.Now:
			return 1
		}
		return 0
	})
	return after.drops
}

// full are the guests that do not take their packets, with the reason that the kernel gives for most of them.
func full(before, after counts, drops []tracing.Drop) (out []tracing.Cause) {
	for _, port := range slices.Sorted(maps.Keys(after.queues)) {
		n := after.queues[port]
		if n <= before.queues[port] {
			continue
		}
		c := tracing.Cause{
			Fault: tracing.FaultQueueFull, Host: after.hosts[port], Port: port, Stage: tracing.StagePortOut,
			Message: fmt.Sprintf("The guest of port %s does not take its packets: its device had no room for %d while this was asked (%d in all).", port, n-before.queues[port], n),
			Next:    "look at the guest: it hangs, or has too little CPU for its traffic",
		}
		for _, d := range drops { // those that came most now are first
			if d.Port == port && d.Kernel != "" && d.Now > 0 {
				c.Kernel, c.Next = d.Kernel, cmp.Or(d.Fix(), c.Next)
				c.Message += fmt.Sprintf(" The kernel calls it %s: %s.", d.Kernel, d.Doc())
				break
			}
		}
		out = append(out, c)
	}
	return out
}

// reachOf says how far the hosts of the two ends are with what the records say of the ports.
func (v *view) reachOf(r api.TraceRequest, x *tracing.Examination) []tracing.Reach {
	wanted, newest := fabric.Revision(0), (*tracing.Change)(nil)
	for _, object := range v.about(r) {
		if c := v.changeOf(object); c != nil && c.Revision > wanted {
			wanted, newest = c.Revision, c
		}
	}
	var out []tracing.Reach
	for _, host := range slices.Compact([]fabric.HostID{x.From, x.To}) {
		if host == "" {
			continue
		}
		st, reports := v.statuses[host]
		out = append(out, tracing.Reach{Host: host, Generation: st.Generation, Wanted: wanted, Change: newest, Reports: reports, Problem: failedBy(st)})
	}
	return out
}

// failedBy is what a host says of a generation that it could not put in force.
func failedBy(s fabric.HostStatus) string {
	for _, p := range s.Problems {
		if strings.HasPrefix(p, "generation ") {
			return p
		}
	}
	return ""
}

// about are the records that say something of the two ports, as kind/name.
func (v *view) about(r api.TraceRequest) (out []string) {
	for _, end := range v.ends(r) {
		p := v.snap.Ports[end]
		settings := v.snap.Settings(p)
		out = append(out, "port/"+string(end), "location/"+string(end), "switch/"+string(p.Spec.Switch), "profile/"+settings.Profile)
		for _, name := range settings.Policies {
			out = append(out, "policy/"+name)
			for _, group := range groupsOf(v.snap.Policies[name]) {
				out = append(out, "group/"+group)
			}
		}
	}
	return out
}

// groupsOf are the groups that a policy's rules speak of.
func groupsOf(p *fabric.Policy) (out []string) {
	if p == nil {
		return nil
	}
	for _, r := range p.Spec.Rules {
		for _, e := range []*fabric.End{r.Local, r.Remote} {
			if e != nil {
				out = append(out, e.Groups...)
			}
		}
	}
	return out
}

// changeOf is the operation that wrote a record; nil when there is no such record.
func (v *view) changeOf(object string) *tracing.Change {
	kind, name, _ := strings.Cut(object, "/")
	var meta *fabric.Metadata
	switch kind {
	case "port":
		if o := v.snap.Ports[fabric.PortID(name)]; o != nil {
			meta = &o.Metadata
		}
	case "switch":
		if o := v.snap.Switches[fabric.SwitchID(name)]; o != nil {
			meta = &o.Metadata
		}
	case "profile":
		if o := v.snap.Profiles[name]; o != nil {
			meta = &o.Metadata
		}
	case "policy":
		if o := v.snap.Policies[name]; o != nil {
			meta = &o.Metadata
		}
	case "group":
		if o := v.snap.Groups[name]; o != nil {
			meta = &o.Metadata
		}
	case "location":
		if l, there := v.snap.Locations[fabric.PortID(name)]; there {
			meta = &fabric.Metadata{Revision: l.Revision, Trace: l.Trace}
		}
	}
	if meta == nil {
		return nil
	}
	return &tracing.Change{Object: object, Revision: meta.Revision, Trace: meta.Trace}
}

// notes are what keeps packets away from the two ports by their hosts' own word.
func (v *view) notes(ends []fabric.PortID) (out []tracing.Cause) {
	seen := v.seen()
	hosts := map[fabric.HostID]bool{}
	for _, end := range ends {
		p := *v.snap.Ports[end]
		p.Status = v.portStatus(&p, seen)
		for _, problem := range portProblems(&p) {
			out = append(out, tracing.Cause{Fault: tracing.FaultPort, Host: p.Status.Host, Port: end, Stage: tracing.StagePortIn, Message: "Port " + string(end) + " is " + problem.Message + ".", Next: problem.Next, Change: v.changeOf("location/" + string(end))})
		}
		hosts[p.Status.Host] = true
	}
	all := v.hosts()
	for i := range all {
		id := fabric.HostID(all[i].Metadata.Name)
		if !hosts[id] {
			continue
		}
		for _, problem := range hostProblems(&all[i], v) {
			out = append(out, tracing.Cause{Fault: "host_problem", Host: id, Message: "Host " + string(id) + ": " + problem.Message + ".", Next: problem.Next})
		}
	}
	return out
}
