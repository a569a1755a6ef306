package fabric

import (
	"fmt"
	"strings"
)

// Kinds lists every kind of this release in the order in which they may refer to one another: an object refers only to
// kinds before its own.
func Kinds() []Kind {
	return []Kind{KindGroup, KindPolicy, KindProfile, KindHost, KindSwitch, KindPort, KindMirror, KindMove}
}

// New returns an empty object of the kind with its head filled, or ErrInvalid with the nearest kind's name.
func New(k Kind) (Object, error) {
	var o Object
	switch k {
	case KindHost:
		o = new(Host)
	case KindSwitch:
		o = new(Switch)
	case KindPort:
		o = new(Port)
	case KindProfile:
		o = new(Profile)
	case KindPolicy:
		o = new(Policy)
	case KindGroup:
		o = new(Group)
	case KindMirror:
		o = new(Mirror)
	case KindMove:
		o = new(Move)
	default:
		return nil, fmt.Errorf("%s: %w", unknown("kind", string(k), kindNames()), ErrInvalid)
	}
	*o.Type() = TypeMeta{APIVersion: APIVersion, Kind: k}
	return o, nil
}

// ParseKind reads a kind as people type it: any case, singular or plural ("port", "Ports", "switches", "policies").
func ParseKind(s string) (Kind, error) {
	word := strings.ToLower(s)
	for _, k := range Kinds() {
		name := strings.ToLower(string(k))
		if word == name || word == Plural(k) || word == name+"s" {
			return k, nil
		}
	}
	return "", fmt.Errorf("%s: %w", unknown("kind", s, kindNames()), ErrInvalid)
}

// Plural is the word for several objects of the kind: "ports", "switches", "policies".
func Plural(k Kind) string {
	name := strings.ToLower(string(k))
	if stem, ok := strings.CutSuffix(name, "y"); ok {
		return stem + "ies"
	}
	if strings.HasSuffix(name, "ch") {
		return name + "es"
	}
	return name + "s"
}

// Ref names an object in sentences and events: "port/web-1".
func Ref(o Object) string {
	return strings.ToLower(string(o.Type().Kind)) + "/" + o.Meta().Name
}

func kindNames() []string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return names
}
