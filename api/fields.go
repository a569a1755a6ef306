package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weftnet/weft/fabric"
)

// FieldChange is one field in which two versions of an object differ. A nil side means that the field is absent there.
type FieldChange struct {
	// Path names the field: spec.mtu.
	Path string `json:"path"`
	Old  any    `json:"old,omitempty"`
	New  any    `json:"new,omitempty"`
}

// String writes the change on one line.
func (c FieldChange) String() string {
	switch {
	case c.Old == nil:
		return fmt.Sprintf("+ %s: %s", c.Path, short(c.New))
	case c.New == nil:
		return fmt.Sprintf("- %s: %s", c.Path, short(c.Old))
	default:
		return fmt.Sprintf("~ %s: %s → %s", c.Path, short(c.Old), short(c.New))
	}
}

func short(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// Diff lists the fields users write in which two versions of an object differ, in the order of their paths. Either may be
// nil, for an object that is not there.
func Diff(old, new fabric.Object) ([]FieldChange, error) {
	a, err := written(old)
	if err != nil {
		return nil, err
	}
	b, err := written(new)
	if err != nil {
		return nil, err
	}
	var out []FieldChange
	compare(&out, "", a, b)
	return out, nil
}

// written is what users write of an object: no status, and no metadata that the fabric keeps.
func written(o fabric.Object) (map[string]any, error) {
	if o == nil || reflect.ValueOf(o).IsNil() {
		return map[string]any{}, nil
	}
	m, err := fieldsOf(o)
	if err != nil {
		return nil, err
	}
	delete(m, "status")
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "revision")
		delete(meta, "trace")
	}
	return m, nil
}

// Written is a copy of the object as users write it, for export: a document that apply takes.
func Written(o fabric.Object) (fabric.Object, error) {
	m, err := written(o)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", fabric.Ref(o), err)
	}
	return Decode(b)
}

func fieldsOf(o fabric.Object) (map[string]any, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", fabric.Ref(o), err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read %s as fields: %w", fabric.Ref(o), err)
	}
	return m, nil
}

func compare(out *[]FieldChange, path string, a, b map[string]any) {
	keys := map[string]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		p := strings.TrimPrefix(path+"."+k, ".")
		am, aIsMap := a[k].(map[string]any)
		bm, bIsMap := b[k].(map[string]any)
		an, aIsNamed := named(a[k])
		bn, bIsNamed := named(b[k])
		switch {
		case aIsMap || bIsMap:
			compare(out, p, am, bm)
		case aIsNamed && bIsNamed:
			compareNamed(out, p, an, bn)
		case !reflect.DeepEqual(a[k], b[k]):
			*out = append(*out, FieldChange{Path: p, Old: a[k], New: b[k]})
		}
	}
}

// named is a list of objects that have names of their own, such as rules, by name; their order means nothing.
func named(v any) (map[string]map[string]any, bool) {
	list, ok := v.([]any)
	by := make(map[string]map[string]any, len(list))
	for _, item := range list {
		m, isMap := item.(map[string]any)
		name, hasName := m["name"].(string)
		if !isMap || !hasName || by[name] != nil {
			return nil, false
		}
		by[name] = m
	}
	return by, ok
}

// compareNamed compares lists by the names of their items.
func compareNamed(out *[]FieldChange, path string, a, b map[string]map[string]any) {
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := fmt.Sprintf("%s[%s]", path, name)
		switch {
		case a[name] == nil:
			*out = append(*out, FieldChange{Path: at, New: b[name]})
		case b[name] == nil:
			*out = append(*out, FieldChange{Path: at, Old: a[name]})
		default:
			compare(out, at, a[name], b[name])
		}
	}
}

// Set returns a copy of the object with fields changed, each written FIELD=VALUE. A field is a path below spec, or begins
// with labels. or annotations.; a value is YAML: 1400, true, [10.10.0.5], or nothing to take the field away. The error wraps
// fabric.ErrInvalid.
func Set(o fabric.Object, assignments []string) (fabric.Object, error) {
	m, err := fieldsOf(o)
	if err != nil {
		return nil, err
	}
	delete(m, "status")
	for _, a := range assignments {
		field, value, ok := strings.Cut(a, "=")
		if !ok || field == "" {
			return nil, fmt.Errorf("set %s: %q is not FIELD=VALUE, such as mtu=1400: %w", fabric.Ref(o), a, fabric.ErrInvalid)
		}
		var v any
		if err := yaml.Unmarshal([]byte(value), &v); err != nil {
			return nil, fmt.Errorf("set %s: the value of %s is not YAML: %w", fabric.Ref(o), field, fabric.ErrInvalid)
		}
		if err := assign(m, fieldPath(field), v); err != nil {
			return nil, fmt.Errorf("set %s: %w", fabric.Ref(o), err)
		}
	}
	b, err := json.Marshal(m)
	if err != nil { // YAML knows numbers and keys that JSON does not
		return nil, fmt.Errorf("set %s: %v: %w", fabric.Ref(o), err, fabric.ErrInvalid)
	}
	return Decode(b)
}

// fieldPath completes a path: below spec unless it says otherwise.
func fieldPath(field string) []string {
	field = strings.TrimPrefix(field, "metadata.")
	for _, m := range []string{"labels", "annotations"} {
		if key, ok := strings.CutPrefix(field, m+"."); ok {
			return []string{"metadata", m, key} // a label's key has dots of its own
		}
	}
	return append([]string{"spec"}, strings.Split(strings.TrimPrefix(field, "spec."), ".")...)
}

// assign puts a value at a path; nil takes it away.
func assign(m map[string]any, path []string, v any) error {
	for i, k := range path[:len(path)-1] {
		next, ok := m[k].(map[string]any)
		if !ok && m[k] != nil {
			return fmt.Errorf("%s has no fields below it: %w", strings.Join(path[:i+1], "."), fabric.ErrInvalid)
		}
		if !ok {
			next = map[string]any{}
			m[k] = next
		}
		m = next
	}
	if v == nil {
		delete(m, path[len(path)-1])
		return nil
	}
	m[path[len(path)-1]] = v
	return nil
}
