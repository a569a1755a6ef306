package server

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// double is a port that a host has open although the records give it to another one.
type double struct {
	port  fabric.PortID
	loc   fabric.Location
	host  fabric.HostID
	epoch fabric.Epoch
}

// doubles are those of some ports. A host that a move leads away from or to is none: it holds the port by a grant, or relays.
func (v *view) doubles(ports []fabric.PortID) (out []double) {
	for _, port := range ports {
		loc := v.snap.Locations[port]
		if loc.Host == "" || loc.Grant != nil {
			continue
		}
		for _, host := range slices.Sorted(maps.Keys(v.statuses)) {
			if host == loc.Host || host == loc.From {
				continue
			}
			for _, st := range v.statuses[host].Ports {
				if st.Name == port && st.State == fabric.PortActive && st.Epoch < loc.Epoch {
					out = append(out, double{port: port, loc: loc, host: host, epoch: st.Epoch})
				}
			}
		}
	}
	return out
}

// turnedAway is how many packets each host has dropped because they come from a host that does not hold their sender's port. Nobody is
// asked where no port has two hosts.
func (s *Server) turnedAway(ctx context.Context, v *view, all []double) map[fabric.HostID]uint64 {
	if len(all) == 0 {
		return nil
	}
	found, _ := askAll(ctx, s, v.snap.Hosts, s.askDrops())
	n := map[fabric.HostID]uint64{}
	for host, drops := range found {
		for _, d := range drops {
			if d.Reason == tracing.ReasonVTEPNotAllowed {
				n[host] += d.Packets
			}
		}
	}
	return n
}

// doubled are the causes of ports that two hosts have open, with what hosts have turned away meanwhile.
func (v *view) doubled(all []double, before, after map[fabric.HostID]uint64) (out []tracing.Cause) {
	for _, d := range all {
		c := tracing.Cause{
			Fault: tracing.FaultOwners, Host: d.host, Peer: d.loc.Host, Port: d.port, Change: v.changeOf("location/" + string(d.port)),
			Message: fmt.Sprintf("Host %s has port %s open by epoch %d, while the records give it to host %s by epoch %d.", d.host, d.port, d.epoch, d.loc.Host, d.loc.Epoch),
			Next:    fmt.Sprintf("if the guest runs on both hosts, end it on %s; on %s run: weft doctor, it does not follow the records", d.host, d.host),
		}
		for _, host := range slices.Sorted(maps.Keys(after)) {
			if n := after[host] - min(after[host], before[host]); n > 0 {
				c.Stage, c.Reason = tracing.StageDecap, tracing.ReasonVTEPNotAllowed
				c.Message += fmt.Sprintf(" Host %s turns away what comes from there: %d while this was asked (%s).", host, n, c.Reason)
			}
		}
		out = append(out, c)
	}
	return out
}
