package fabric

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VLANID names a segment of a switch: 1 to 4094 is a VLAN, which a trunk carries by that tag (IEEE 802.1Q 9.6), 4096 to MaxVNI an
// isolation id, which has no tag. 0 is the switch's untagged segment.
type VLANID uint32

// Bounds of VLANs.
const (
	// MaxTag is the highest VLAN that a tag can name; 4095 is reserved (IEEE 802.1Q table 9-2).
	MaxTag VLANID = 4094
	// MinIsolation is the lowest isolation id, above all that 12 bits can say.
	MinIsolation VLANID = 4096
	// MaxVLANs is how many VLANs one switch may have.
	MaxVLANs = 512
)

// valid reports whether a segment beside the untagged one can have this number.
func (id VLANID) valid() bool {
	return id >= 1 && id <= MaxTag || id >= MinIsolation && id <= VLANID(MaxVNI)
}

// VLAN says on which segments of its switch a port is. At most one of Access, Trunk and PVLAN is given; none of them is the switch's
// untagged segment, whatever the profile says.
type VLAN struct {
	// Access is the one VLAN or isolation id that the port is on; its guest sends and receives untagged.
	Access VLANID `json:"access,omitempty"`
	// Trunk carries several VLANs by their tags.
	Trunk *Trunk `json:"trunk,omitempty"`
	// PVLAN is the port's part in a private VLAN.
	PVLAN *PVLAN `json:"pvlan,omitempty"`
	// QinQ carries the tags that the guest's frames have, behind that of the trunk, as payload.
	QinQ bool `json:"qinq,omitempty"`
}

// Trunk is a port that carries several VLANs.
type Trunk struct {
	// Native is the VLAN of untagged frames, in both directions; 0 is the switch's untagged segment.
	Native VLANID `json:"native,omitempty"`
	// Allowed are the VLANs that pass tagged; all (or 1-4094) are those that the switch lists, without private ones.
	Allowed []VLANRange `json:"allowed,omitempty"`
	// Pruned never pass, allowed or not.
	Pruned []VLANRange `json:"pruned,omitempty"`
}

// PVLANMode is a port's part in a private VLAN.
type PVLANMode string

// The parts in a private VLAN.
const (
	// Isolated sends on the secondary and receives on the primary VLAN: it meets promiscuous ports alone.
	Isolated PVLANMode = "isolated"
	// Community sends on the secondary and receives on both: it meets its own community and promiscuous ports.
	Community PVLANMode = "community"
	// Promiscuous sends on the primary and receives on it and on the secondaries that it lists.
	Promiscuous PVLANMode = "promiscuous"
)

// PVLAN is a port's part in a private VLAN (RFC 5517; the same matrix as Hyper-V's).
type PVLAN struct {
	Mode    PVLANMode `json:"mode"`
	Primary VLANID    `json:"primary"`
	// Secondary is one VLAN; of a promiscuous port all those whose ports it hears.
	Secondary []VLANID `json:"secondary"`
}

// VLANRange is a VLAN or an inclusive range, written "10", "10-20" or "all"; a number is read too.
type VLANRange struct {
	First, Last VLANID
}

// AllVLANs are those that the switch lists.
var AllVLANs = VLANRange{1, MaxTag}

// ParseVLANRange reads a VLAN, first-last, or all; the error wraps ErrInvalid. Bounds are Validate's to check.
func ParseVLANRange(s string) (VLANRange, error) {
	if s == "all" {
		return AllVLANs, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 24)
	last, err2 := strconv.ParseUint(to, 10, 24)
	if err1 != nil || err2 != nil || strings.ContainsAny(s, "+_") {
		return VLANRange{}, fmt.Errorf("%s is not a VLAN or a range of them: write it as 10, 10-20 or all: %w", quote(s), ErrInvalid)
	}
	return VLANRange{VLANID(first), VLANID(last)}, nil
}

// String writes "10", "10-20" or "all".
func (r VLANRange) String() string {
	switch {
	case r == AllVLANs:
		return "all"
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// MarshalText is String.
func (r VLANRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseVLANRange.
func (r *VLANRange) UnmarshalText(b []byte) (err error) {
	*r, err = ParseVLANRange(string(b))
	return err
}

// UnmarshalJSON reads a text or a number.
func (r *VLANRange) UnmarshalJSON(b []byte) error { return r.UnmarshalText(bytes.Trim(b, `"`)) }

func (r VLANRange) has(id VLANID) bool { return r.First <= id && id <= r.Last }

func within(ranges []VLANRange, id VLANID) bool {
	return slices.ContainsFunc(ranges, func(r VLANRange) bool { return r.has(id) })
}

// carries reports whether frames of the VLAN pass with its tag.
func (t *Trunk) carries(id VLANID) bool {
	return id != t.Native && id <= MaxTag && within(t.Allowed, id) && !within(t.Pruned, id)
}

// named are the VLANs that the trunk names one by one or by a range narrower than all, without those pruned, in order.
func (t *Trunk) named() (ids []VLANID) {
	for _, r := range t.Allowed {
		for id := r.First; r != AllVLANs && id <= r.Last; id++ {
			if t.carries(id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// check records what is wrong with the settings by themselves.
func (v *VLAN) check(f *Findings, path string) {
	given := 0
	for _, is := range []bool{v.Access != 0, v.Trunk != nil, v.PVLAN != nil} {
		if is {
			given++
		}
	}
	if given > 1 {
		f.add(path, "access, trunk and pvlan exclude each other: keep one of them")
	}
	if v.Access != 0 && !v.Access.valid() {
		f.add(path+".access", "%d %s", v.Access, badVLAN)
	}
	if v.Trunk != nil {
		v.Trunk.check(f, path+".trunk")
	}
	if v.PVLAN != nil {
		v.PVLAN.check(f, path+".pvlan")
	}
	if v.QinQ && v.PVLAN != nil {
		f.add(path+".qinq", "a port of a private VLAN carries no tags: leave it out")
	}
}

const (
	badVLAN = "cannot be: a VLAN is 1 to 4094, an isolation id 4096 to 16777215; leave it out for the switch's untagged segment"
	badTag  = "cannot be a tag: a VLAN is 1 to 4094"
)

func (t *Trunk) check(f *Findings, path string) {
	if t.Native > MaxTag {
		f.add(path+".native", "%d %s, and 0 the switch's untagged segment", t.Native, badTag)
	}
	if len(t.Allowed) == 0 {
		f.add(path+".allowed", "is missing: name the VLANs that pass tagged, such as [10-20], or [all]")
	}
	for field, ranges := range map[string][]VLANRange{"allowed": t.Allowed, "pruned": t.Pruned} {
		for i, r := range ranges {
			at := fmt.Sprintf("%s.%s[%d]", path, field, i)
			switch {
			case r.First == 0 || r.Last > MaxTag:
				f.add(at, "%s %s", r, badTag)
			case r.First > r.Last:
				f.add(at, "%s is reversed: write %d-%d", r, r.Last, r.First)
			}
		}
	}
	if f.Err() != nil {
		return
	}
	if t.Native != 0 && within(t.Pruned, t.Native) {
		f.add(path+".native", "VLAN %d is pruned, too, and pruning wins: take it out of pruned, or choose another native VLAN", t.Native)
	}
	if n := len(t.named()); n > MaxVLANs {
		f.add(path+".allowed", "names %d VLANs, a switch has at most %d: name those that are needed, or write all for those the switch lists", n, MaxVLANs)
	}
}

func (p *PVLAN) check(f *Findings, path string) {
	modes := []string{string(Isolated), string(Community), string(Promiscuous)}
	if !slices.Contains(modes, string(p.Mode)) {
		f.add(path+".mode", "%s", unknown("mode", string(p.Mode), modes))
	}
	if p.Primary == 0 || p.Primary > MaxTag {
		f.add(path+".primary", "%d %s", p.Primary, badTag)
	}
	switch n := len(p.Secondary); {
	case n == 0:
		f.add(path+".secondary", "is missing: name the secondary VLAN, such as [101]")
	case n > 1 && p.Mode != Promiscuous:
		f.add(path+".secondary", "names %d VLANs, an %s port has one; promiscuous ports hear several", n, p.Mode)
	case n > MaxVLANs:
		f.add(path+".secondary", "names %d VLANs, a switch has at most %d", n, MaxVLANs)
	}
	for i, id := range p.Secondary {
		at := fmt.Sprintf("%s.secondary[%d]", path, i)
		switch {
		case id == 0 || id > MaxTag:
			f.add(at, "%d %s", id, badTag)
		case id == p.Primary:
			f.add(at, "%d is the primary VLAN: a secondary is another one", id)
		case slices.Contains(p.Secondary[:i], id):
			f.add(at, "%d is given twice", id)
		}
	}
}

// String is the setting in one line: "untagged", "10", "trunk:native=1,allowed=10-20", "isolated:primary=100,secondary=101".
// ParseVLAN reads it.
func (v *VLAN) String() string {
	text := "untagged"
	switch {
	case v == nil:
		return text
	case v.Trunk != nil:
		text = fmt.Sprintf("trunk:native=%d,allowed=%s", v.Trunk.Native, slashed(v.Trunk.Allowed))
		if len(v.Trunk.Pruned) > 0 {
			text += ",pruned=" + slashed(v.Trunk.Pruned)
		}
	case v.PVLAN != nil:
		text = fmt.Sprintf("%s:primary=%d,secondary=%s", v.PVLAN.Mode, v.PVLAN.Primary, slashed(v.PVLAN.Secondary))
	case v.Access != 0:
		text = strconv.Itoa(int(v.Access))
	}
	if v.QinQ {
		text += "+qinq"
	}
	return text
}

// slashed writes a list inside a field: 10-20/30.
func slashed[T any](list []T) string {
	words := make([]string, len(list))
	for i, one := range list {
		words[i] = fmt.Sprint(one)
	}
	return strings.Join(words, "/")
}

// ParseVLAN reads what String writes: a number, untagged, trunk:native=1,allowed=10-20/30,pruned=15, or a part in a private VLAN
// such as isolated:primary=100,secondary=101; +qinq behind it carries inner tags. The error wraps ErrInvalid. Bounds are Validate's
// to check.
func ParseVLAN(s string) (*VLAN, error) {
	v := &VLAN{}
	word, qinq := strings.CutSuffix(s, "+qinq")
	v.QinQ = qinq
	if word == "untagged" {
		return v, nil
	}
	kind, rest, more := strings.Cut(word, ":")
	if !more {
		id, err := strconv.ParseUint(word, 10, 24)
		if err != nil {
			return nil, fmt.Errorf("%s is no VLAN: write a number, untagged, trunk:native=1,allowed=10-20 or isolated:primary=100,secondary=101: %w", quote(s), ErrInvalid)
		}
		v.Access = VLANID(id)
		return v, nil
	}
	fields := map[string][]VLANRange{}
	for _, pair := range strings.Split(rest, ",") {
		name, list, _ := strings.Cut(pair, "=")
		for _, one := range strings.Split(list, "/") {
			r, err := ParseVLANRange(one)
			if err != nil {
				return nil, fmt.Errorf("%s in %s: %w", name, quote(s), err)
			}
			fields[name] = append(fields[name], r)
		}
	}
	known := []string{"primary", "secondary"}
	if kind == "trunk" {
		known = []string{"native", "allowed", "pruned"}
		v.Trunk = &Trunk{Native: first(fields["native"]), Allowed: fields["allowed"], Pruned: fields["pruned"]}
	} else {
		v.PVLAN = &PVLAN{Mode: PVLANMode(kind), Primary: first(fields["primary"])}
		for _, r := range fields["secondary"] {
			for id := r.First; id <= r.Last && len(v.PVLAN.Secondary) <= MaxVLANs; id++ {
				v.PVLAN.Secondary = append(v.PVLAN.Secondary, id)
			}
		}
	}
	for name := range fields {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: %s: %w", quote(s), unknown("field", name, known), ErrInvalid)
		}
	}
	return v, nil
}

// first is the one VLAN of a field that has one.
func first(ranges []VLANRange) VLANID {
	if len(ranges) == 0 {
		return 0
	}
	return ranges[0].First
}
