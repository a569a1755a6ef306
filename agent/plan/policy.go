package plan

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// judged is what a port is judged by, as the fabric has it: the list of ADR 10.1, by names.
type judged struct {
	policies string // the names, joined by newlines
	action   fabric.Action
	on       string // segments, as far as rules may ask for them
	meters   string // their rules' names, joined by newlines
}

// ruled is what a list comes to.
type ruled struct {
	table    policy.Digest   // that judges the port; zero without rules
	revision fabric.Revision // the latest of the records that the rules come from
	known    bool            // false when the profile, a policy or a group is not known: such a port is closed
}

// rules is what judges a port; its table is put on the list of those that are wanted.
func (w *wanted) rules(of fabric.EffectiveSettings, on fabric.Segments) ruled {
	metering := fabric.Metering(of.Meters)
	key := judged{strings.Join(of.Policies, "\n"), of.DefaultAction, segmentsKey(on), ""}
	if metering != nil {
		for _, r := range metering.Spec.Rules {
			key.meters += r.Name + "\n"
		}
	}
	r, done := w.judged[key]
	if !done {
		r = w.ruled(of, metering, on)
		w.judged[key] = r
	}
	r.known = r.known && of.Known
	if !r.known { // a record has gone, and its revision with it: what closes the port must not look older than what opened it
		r.revision = max(r.revision, w.snap.Revision)
	}
	return r
}

// segmentsKey tells the segments of ports apart.
func segmentsKey(on fabric.Segments) string {
	key := make([]byte, 0, 16)
	key = binary.BigEndian.AppendUint32(key, uint32(on.Sends))
	key = binary.BigEndian.AppendUint32(key, uint32(on.VLAN))
	for _, id := range slices.Sorted(maps.Keys(on.Tags)) {
		key = binary.BigEndian.AppendUint32(key, uint32(id))
		key = binary.BigEndian.AppendUint32(key, uint32(on.Tags[id]))
	}
	return string(key)
}

// ruled makes the table of a list.
func (w *wanted) ruled(of fabric.EffectiveSettings, metering *fabric.Policy, on fabric.Segments) (r ruled) {
	source := &policy.Source{Default: of.DefaultAction, VNI: on.Sends, VLAN: on.VLAN, Tags: on.Tags, Groups: map[string][]netip.Prefix{}}
	r.known = true
	if metering != nil { // first: a policy's meters count what these do not
		source.Policies = append(source.Policies, metering)
	}
	for _, name := range of.Policies {
		p := w.snap.Policies[name]
		if p == nil {
			r.known = false
			continue
		}
		r.revision = max(r.revision, p.Metadata.Revision)
		source.Policies = append(source.Policies, p)
		r.known = w.groups(source, p, &r.revision) && r.known
	}
	if r.known && !source.IsOpen() {
		r.table = source.Digest()
		w.state.Tables[r.table] = source
	}
	return r
}

// groups adds the members of the groups that the policy names, and their revisions; false when one is not known.
func (w *wanted) groups(source *policy.Source, p *fabric.Policy, latest *fabric.Revision) bool {
	known := true
	for i := range p.Spec.Rules {
		for _, e := range []*fabric.End{p.Spec.Rules[i].Local, p.Spec.Rules[i].Remote} {
			if e == nil {
				continue
			}
			for _, name := range e.Groups {
				g := w.snap.Groups[name]
				if g == nil {
					known = false
					continue
				}
				*latest = max(*latest, g.Metadata.Revision)
				source.Groups[name] = w.members(name, g)
			}
		}
	}
	return known
}

// members are a group's address blocks and the addresses of the ports that it selects, whatever switch they are on.
func (w *wanted) members(name string, g *fabric.Group) []netip.Prefix {
	if known, done := w.grouped[name]; done {
		return known
	}
	members := slices.Clone(g.Spec.CIDRs)
	for _, port := range w.snap.Ports {
		if !selects(g, port) {
			continue
		}
		for _, a := range port.Spec.Addresses {
			members = append(members, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	w.grouped[name] = members
	return members
}

// selects reports whether the group takes in the port by its labels.
func selects(g *fabric.Group, port *fabric.Port) bool {
	for key, value := range g.Spec.Ports {
		if have, there := port.Metadata.Labels[key]; !there || have != value {
			return false
		}
	}
	return len(g.Spec.Ports) > 0
}
