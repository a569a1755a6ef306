package tracing

import (
	"fmt"
	"slices"
)

// Stage is a step of a packet's way through a host; the numbers are in stages.yaml and are the ones of the datapath.
// 0 is no stage.
type Stage uint8

// Result is how a stage ended. 0 is no result.
type Result uint8

// Reason is why a frame was dropped; 0 is no reason. Its hundred names the class.
type Reason uint16

// Class groups reasons by who should care.
type Class uint16

// described is one line of stages.yaml.
type described[T ~uint8 | ~uint16] struct {
	id   T
	name string
	doc  string
	fix  string
	// hyperv is the number and the name of Hyper-V's reason; reasons alone have one.
	hyperv string
}

// String is the name of stages.yaml, as in "port.in"; a number this release does not know is written "stage(77)".
func (s Stage) String() string { return name(stages, s, "stage") }

// Doc says in one phrase what happens at the stage; empty for an unknown one.
func (s Stage) Doc() string { return find(stages, s).doc }

// MarshalText writes the name.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name, or the "stage(77)" of a newer release.
func (s *Stage) UnmarshalText(b []byte) error { return unmarshal(stages, s, "stage", string(b)) }

// String is the name of stages.yaml, as in "pass".
func (r Result) String() string { return name(results, r, "result") }

// MarshalText writes the name.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a name.
func (r *Result) UnmarshalText(b []byte) error { return unmarshal(results, r, "result", string(b)) }

// String is the name of stages.yaml, as in "guard_src_mac"; empty when there is no reason.
func (r Reason) String() string { return name(reasons, r, "reason") }

// Doc says in one phrase what the reason means; empty for an unknown one.
func (r Reason) Doc() string { return find(reasons, r).doc }

// Fix says what to do about it; empty where nothing needs doing or nothing is known to help.
func (r Reason) Fix() string { return find(reasons, r).fix }

// HyperV is the number and the name that Hyper-V gives to such a drop, as in "16 MacSpoofing"; empty where it has none.
func (r Reason) HyperV() string { return find(reasons, r).hyperv }

// Class is who should care.
func (r Reason) Class() Class { return Class(r / 100 * 100) }

// Index is the dense index of the reason in arrays of ReasonCount counters; 0 for a number this release does not know.
func (r Reason) Index() int {
	i := slices.IndexFunc(reasons, func(d described[Reason]) bool { return d.id == r })
	return i + 1
}

// ReasonAt is the reason with this dense index; 0 where there is none.
func ReasonAt(index int) Reason {
	if index < 1 || index > len(reasons) {
		return 0
	}
	return reasons[index-1].id
}

// Reasons returns all reasons of this release, in the order of their numbers.
func Reasons() []Reason {
	all := make([]Reason, len(reasons))
	for i, d := range reasons {
		all[i] = d.id
	}
	return all
}

// ParseReason finds a reason by its name; the error says that the name is not known.
func ParseReason(s string) (Reason, error) {
	var r Reason
	return r, r.UnmarshalText([]byte(s))
}

// MarshalText writes the name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a name; empty text is no reason.
func (r *Reason) UnmarshalText(b []byte) error { return unmarshal(reasons, r, "reason", string(b)) }

// String is the name of stages.yaml, as in "policy".
func (c Class) String() string { return name(classes, c, "class") }

// Doc says what the reasons of the class have in common.
func (c Class) Doc() string { return find(classes, c).doc }

// Intended reports whether a drop of this class is what somebody asked for, and no error.
func (c Class) Intended() bool { return c == ClassPolicy || c == ClassProbe }

// MarshalText writes the name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a name.
func (c *Class) UnmarshalText(b []byte) error { return unmarshal(classes, c, "class", string(b)) }

func find[T ~uint8 | ~uint16](table []described[T], id T) described[T] {
	for _, d := range table {
		if d.id == id {
			return d
		}
	}
	return described[T]{}
}

func name[T ~uint8 | ~uint16](table []described[T], id T, noun string) string {
	if id == 0 {
		return ""
	}
	if d := find(table, id); d.name != "" {
		return d.name
	}
	return fmt.Sprintf("%s(%d)", noun, id)
}

func unmarshal[T ~uint8 | ~uint16](table []described[T], id *T, noun, text string) error {
	if text == "" {
		*id = 0
		return nil
	}
	for _, d := range table {
		if d.name == text {
			*id = d.id
			return nil
		}
	}
	if _, err := fmt.Sscanf(text, noun+"(%d)", id); err != nil {
		return fmt.Errorf("%q is no %s of this release", text, noun)
	}
	return nil
}
