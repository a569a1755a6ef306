package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Mirror copies what passes at some ports to a sink (ADR 16): what the ports' guards and rules let through, as the guests send and
// receive it.
type Mirror struct {
	TypeMeta
	Metadata Metadata     `json:"metadata"`
	Spec     MirrorSpec   `json:"spec"`
	Status   MirrorStatus `json:"status,omitzero"`
}

// MirrorSpec is what the operator asks for.
type MirrorSpec struct {
	// Sources select ports; a port that several select is copied once.
	Sources []MirrorSource `json:"sources"`
	// Direction is seen from the guest: in, what it receives; out, what it sends; both when absent.
	Direction MirrorDirection `json:"direction,omitempty"`
	// Filter asks for packets that meet one of its clauses; absent asks for all.
	Filter []MirrorClause `json:"filter,omitempty"`
	// Sample copies one of so many packets, 1 to 1,000,000; absent copies each.
	Sample uint32 `json:"sample,omitempty"`
	// Truncate cuts copies to so many bytes, 64 to 65535; absent cuts nothing.
	Truncate uint32     `json:"truncate,omitempty"`
	Sink     MirrorSink `json:"sink"`
	// For ends the mirror after this time, 1 s to 30 days. The fabric writes Until when it takes For, and the kernel of each host keeps
	// it, with or without an agent.
	For   Duration   `json:"for,omitzero"`
	Until *time.Time `json:"until,omitempty"`
	// VNI is what copies travel under from one host to another; allocated when it is 0.
	VNI VNI `json:"vni,omitempty"`
}

// MirrorSource selects ports by one of its fields. Switch, VM and Labels leave the hosts' own ports out, and the sink.
type MirrorSource struct {
	Port   PortID            `json:"port,omitempty"`
	Switch SwitchID          `json:"switch,omitempty"`
	VM     string            `json:"vm,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// MirrorDirection is what a mirror copies of a port, seen from its guest.
type MirrorDirection string

// The directions of a mirror.
const (
	MirrorIn   MirrorDirection = "in"
	MirrorOut  MirrorDirection = "out"
	MirrorBoth MirrorDirection = "both"
)

// MirrorClause is what a packet must be like; what is absent is not asked for.
type MirrorClause struct {
	// Family is ipv4 or ipv6.
	Family string `json:"family,omitempty"`
	// Protocol is tcp, udp, sctp, icmp, icmpv6 or a number of 0 to 255.
	Protocol string `json:"protocol,omitempty"`
	// Local is the guest's end, Remote the other.
	Local  *MirrorEnd `json:"local,omitempty"`
	Remote *MirrorEnd `json:"remote,omitempty"`
}

// MirrorEnd is one end of a packet: an address in one of Prefixes, a port in one of Ports. Fragments but the first have no ports.
type MirrorEnd struct {
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	Ports    []PortRange    `json:"ports,omitempty"`
}

// MirrorSink is where copies go: one of its fields.
type MirrorSink struct {
	// Port is a port whose guest receives the copies, wherever it runs.
	Port PortID `json:"port,omitempty"`
	// Host is a host with a device on which they are seen: wm- and the mirror's name.
	Host HostID `json:"host,omitempty"`
	// File is a file on a host.
	File *MirrorFile `json:"file,omitempty"`
}

// MirrorFile is a pcapng file in the state directory of a host's agent: mirrors/NAME.pcapng.
type MirrorFile struct {
	Host HostID `json:"host"`
	// Max is its largest size in bytes, MinMirrorFile to MaxMirrorFile, DefaultMirrorFile when absent; a file that is full is closed.
	Max Amount `json:"max,omitempty"`
}

// Bounds of a mirror.
const (
	MinMirrorFile     Amount = 10_000
	MaxMirrorFile     Amount = 100_000_000_000
	DefaultMirrorFile Amount = 100_000_000
	// MaxMirrorClauses is how many clauses a filter has when each of its lists is taken apart: a clause with two prefixes and three
	// ports counts six.
	MaxMirrorClauses = 8
	// MaxPortMirrors is how many mirrors may copy at one port in each direction, MaxHostMirrors at all ports of a host; of more those
	// that come first by name do.
	MaxPortMirrors   = 8
	MaxHostMirrors   = 64
	maxMirrorSources = 64
	maxMirrorSample  = 1_000_000
	minTruncate      = 64
	minMirrorFor     = Duration(time.Second)
	maxMirrorFor     = Duration(30 * 24 * time.Hour)
)

// MirrorStatus is what the hosts say about a mirror, counted since it began there.
type MirrorStatus struct {
	// Ports are those that are copied now.
	Ports []PortID `json:"ports,omitempty"`
	// Host is where the sink is; Device or File is what it is there.
	Host   HostID `json:"host,omitempty"`
	Device string `json:"device,omitempty"`
	File   string `json:"file,omitempty"`
	// FileBytes is the file's size; Full is true when it takes no more.
	FileBytes uint64 `json:"fileBytes,omitempty"`
	Full      bool   `json:"full,omitempty"`
	// Ended is true when its time is over.
	Ended bool `json:"ended,omitempty"`
	// Seen are packets that the filter asks for, before sampling. Copied, Given and Lost are frames: those copied at ports, those that
	// the sink was given, with their bytes, and those lost on a host.
	Seen       uint64 `json:"seen,omitempty"`
	Copied     uint64 `json:"copied,omitempty"`
	Given      uint64 `json:"given,omitempty"`
	GivenBytes uint64 `json:"givenBytes,omitempty"`
	Lost       uint64 `json:"lost,omitempty"`
	// Reason says why nothing is copied.
	Reason string `json:"reason,omitempty"`
}

// Type returns the document head.
func (m *Mirror) Type() *TypeMeta { return &m.TypeMeta }

// Meta returns the metadata.
func (m *Mirror) Meta() *Metadata { return &m.Metadata }

// Default copies both directions, and gives a file a size.
func (m *Mirror) Default() {
	if m.Spec.Direction == "" {
		m.Spec.Direction = MirrorBoth
	}
	if f := m.Spec.Sink.File; f != nil && f.Max == 0 {
		f.Max = DefaultMirrorFile
	}
}

// Validate checks everything but that ports, switches and hosts exist; the error is Findings.
func (m *Mirror) Validate() error {
	var f Findings
	checkHead(&f, &m.TypeMeta, &m.Metadata, KindMirror)
	m.checkSources(&f)
	switch m.Spec.Direction {
	case MirrorIn, MirrorOut, MirrorBoth:
	default:
		f.add("spec.direction", "%s", unknown("direction", string(m.Spec.Direction), []string{"in", "out", "both"}))
	}
	m.checkFilter(&f)
	if m.Spec.Sample > maxMirrorSample {
		f.add("spec.sample", "one of %d packets is too few: the most is %d", m.Spec.Sample, maxMirrorSample)
	}
	if n := m.Spec.Truncate; n != 0 && (n < minTruncate || n > MaxMTU) {
		f.add("spec.truncate", "%d bytes cannot be: a copy is cut to %d to %d", n, minTruncate, MaxMTU)
	}
	m.checkSink(&f)
	if d := m.Spec.For; d != 0 && (d < minMirrorFor || d > maxMirrorFor) {
		f.add("spec.for", "%s cannot be: a mirror's time is %s to %s", d, minMirrorFor, maxMirrorFor)
	}
	if m.Spec.VNI > MaxVNI {
		f.add("spec.vni", "%d does not fit: a VNI is 1 to %d", m.Spec.VNI, MaxVNI)
	}
	return f.Err()
}

func (m *Mirror) checkSources(f *Findings) {
	if n := len(m.Spec.Sources); n == 0 || n > maxMirrorSources {
		f.add("spec.sources", "%d sources: a mirror has 1 to %d, each a port, a switch, a VM or labels of ports", n, maxMirrorSources)
		return
	}
	for i, s := range m.Spec.Sources {
		path := fmt.Sprintf("spec.sources[%d]", i)
		if one(s.Port != "", s.Switch != "", s.VM != "", len(s.Labels) > 0) != 1 {
			f.add(path, "give one of port, switch, vm and labels")
		}
		checkRef(f, path+".port", string(s.Port), false)
		checkRef(f, path+".switch", string(s.Switch), false)
		if s.VM != "" && (len(s.VM) > MaxName || !vmExpr.MatchString(s.VM)) {
			f.add(path+".vm", "%s must match %s", quote(s.VM), vmPattern)
		}
		checkLabels(f, path+".labels", s.Labels)
		if s.Port != "" && s.Port == m.Spec.Sink.Port {
			f.add(path+".port", "%s is the sink, too: a port cannot be mirrored into itself", s.Port)
		}
	}
}

// one counts what is given.
func one(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

func (m *Mirror) checkSink(f *Findings) {
	s := m.Spec.Sink
	if one(s.Port != "", s.Host != "", s.File != nil) != 1 {
		f.add("spec.sink", "give one of port, host and file")
	}
	checkRef(f, "spec.sink.port", string(s.Port), false)
	checkRef(f, "spec.sink.host", string(s.Host), false)
	if s.File == nil {
		return
	}
	checkRef(f, "spec.sink.file.host", string(s.File.Host), true)
	if s.File.Max != 0 && (s.File.Max < MinMirrorFile || s.File.Max > MaxMirrorFile) {
		f.add("spec.sink.file.max", "%s bytes cannot be: a file's largest size is %s to %s", s.File.Max, MinMirrorFile, MaxMirrorFile)
	}
}

func (m *Mirror) checkFilter(f *Findings) {
	n := 0
	for i := range m.Spec.Filter {
		c, path := &m.Spec.Filter[i], fmt.Sprintf("spec.filter[%d]", i)
		if c.Family != "" && c.Family != "ipv4" && c.Family != "ipv6" {
			f.add(path+".family", "%s", unknown("family", c.Family, []string{"ipv4", "ipv6"}))
		}
		hasPorts := false
		if c.Protocol != "" {
			number, err := ParseProtocol(c.Protocol)
			if err != nil {
				f.add(path+".protocol", "%s", unknownProtocol(c.Protocol))
			}
			hasPorts = err != nil || slices.Contains([]uint8{6, 17, 132}, number)
		}
		checkMirrorEnd(f, path+".local", c.Local, hasPorts)
		checkMirrorEnd(f, path+".remote", c.Remote, hasPorts)
		if c.Family == "" && c.Protocol == "" && c.Local.parts() == 0 && c.Remote.parts() == 0 {
			f.add(path, "asks for nothing: leave it out, every packet is copied then")
		}
		n += max(1, c.Local.parts()) * max(1, c.Remote.parts())
	}
	if n > MaxMirrorClauses {
		f.add("spec.filter", "comes to %d combinations of prefixes and ports, the most is %d: use wider prefixes and ranges, or several mirrors", n, MaxMirrorClauses)
	}
}

func checkMirrorEnd(f *Findings, path string, e *MirrorEnd, hasPorts bool) {
	if e == nil {
		return
	}
	for i, p := range e.Prefixes {
		checkPrefix(f, fmt.Sprintf("%s.prefixes[%d]", path, i), p)
	}
	if len(e.Ports) > 0 && !hasPorts {
		f.add(path+".ports", "only tcp, udp and sctp have ports: name one of them as protocol, or leave ports out")
	}
	for i, p := range e.Ports {
		if p.First > p.Last || p.Last == 0 {
			f.add(fmt.Sprintf("%s.ports[%d]", path, i), "%d-%d is no range of ports: write it as 443 or 8000-8080", p.First, p.Last)
		}
	}
}

// parts is how many combinations of prefix and ports an end asks for; 0 when it asks for nothing.
func (e *MirrorEnd) parts() int {
	if e == nil || len(e.Prefixes) == 0 && len(e.Ports) == 0 {
		return 0
	}
	return max(1, len(e.Prefixes)) * max(1, len(e.Ports))
}

// SinkHost is the host that copies go to, empty when there is none: that of the port, or the one that is named.
func (s *Snapshot) SinkHost(m *Mirror) HostID {
	switch sink := m.Spec.Sink; {
	case sink.Port != "":
		return s.Locations[sink.Port].Host
	case sink.File != nil:
		return sink.File.Host
	default:
		return sink.Host
	}
}

// Ended reports whether the mirror's time is over.
func (m *Mirror) Ended(now time.Time) bool { return m.Spec.Until != nil && !now.Before(*m.Spec.Until) }

// Copies reports whether the mirror copies at the port.
func (m *Mirror) Copies(p *Port) bool {
	if PortID(p.Metadata.Name) == m.Spec.Sink.Port {
		return false
	}
	return slices.ContainsFunc(m.Spec.Sources, func(s MirrorSource) bool { return s.selects(p) })
}

func (s *MirrorSource) selects(p *Port) bool {
	switch {
	case s.Port != "":
		return string(s.Port) == p.Metadata.Name
	case p.IsHost():
		return false
	case s.Switch != "":
		return s.Switch == p.Spec.Switch
	case s.VM != "":
		return s.VM == p.Spec.VM
	}
	for key, value := range s.Labels {
		if have, there := p.Metadata.Labels[key]; !there || have != value {
			return false
		}
	}
	return len(s.Labels) > 0
}
