package fabric

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// fill reads a node into an object, field by field, and records everything that does not fit.
func (d *decoder) fill(n *yaml.Node, o Object) { d.value(n, reflect.ValueOf(o).Elem(), "") }

// value reads a node into a value of any type the nouns use.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if len(d.findings) >= maxFindings || !d.plain(n, path) {
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, text, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case reflect.Struct:
		d.record(n, v, path)
	case reflect.Map:
		d.table(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// plain refuses what this format has no use for, and what bombs are made of.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.node(n, path, "anchors and aliases are not read: write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		d.node(n, path, "the tag %s is not read: leave it out", quote(n.Tag))
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.node(n, path, "has no value: leave the field out, or write [] for a list of nothing")
	default:
		return true
	}
	return false
}

// record reads a mapping into a struct by the names in its json tags.
func (d *decoder) record(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.node(n, path, "is %s, not an object with fields", what(n))
		return
	}
	fields := map[string]reflect.Value{}
	collect(v, fields)
	d.entries(n, path, func(key, value *yaml.Node) {
		at := join(path, key.Value)
		target, ok := fields[key.Value]
		if !ok {
			d.node(key, at, "%s", unknownField(key.Value, sortedKeys(fields)))
			return
		}
		d.value(value, target, at)
	})
}

func unknownField(name string, known []string) string {
	if near := Nearest(name, known); near != "" {
		return fmt.Sprintf("unknown field; did you mean %q?", near)
	}
	return "unknown field; known are " + strings.Join(known, ", ")
}

// collect lists the fields of a struct, with those of embedded structs.
func collect(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			collect(v.Field(i), into)
			continue
		}
		into[name] = v.Field(i)
	}
}

// table reads a mapping into a map with text keys.
func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.node(n, path, "is %s, not key: value pairs", what(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	d.entries(n, path, func(key, value *yaml.Node) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(value, e, fmt.Sprintf("%s[%q]", path, key.Value))
		m.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), e)
	})
	v.Set(m)
}

// entries calls fn for each entry of a mapping whose key is text and new.
func (d *decoder) entries(n *yaml.Node, path string, fn func(key, value *yaml.Node)) {
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
			d.node(key, path, "%s cannot be the name of a field: write plain text", what(key))
			continue
		}
		if earlier := first[key.Value]; earlier != nil {
			d.node(key, join(path, key.Value), "is given twice, first in line %d: remove one", d.line+earlier.Line)
			continue
		}
		first[key.Value] = key
		fn(key, n.Content[i+1])
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.node(n, path, "is %s, not a list: write [a, b]", what(n))
		return
	}
	l := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, l.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(l)
}

// text reads what has a text form of its own: addresses, prefixes, MACs and times.
func (d *decoder) text(n *yaml.Node, target encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode {
		d.node(n, path, "is %s, not %s", what(n), form(target))
		return
	}
	if n.Value == "" || target.UnmarshalText([]byte(n.Value)) != nil {
		d.node(n, path, "%s is not %s", quote(n.Value), form(target))
	}
}

func form(target encoding.TextUnmarshaler) string {
	switch target.(type) {
	case *netip.Addr:
		return "an address: write it as 10.10.0.11 or fd00:10::11"
	case *netip.Prefix:
		return "a prefix: write it as 10.10.0.0/24 or fd00:10::/64"
	case *MAC:
		return "a MAC address: write it as 52:54:00:12:34:56"
	case *PortRange:
		return "a port or a range of ports: write it as \"443\" or \"8000-8080\""
	case *VLANRange:
		return "a VLAN or a range of them: write it as 10, 10-20 or all"
	case *EtherType:
		return "an EtherType: write it as 0x88cc"
	case *Amount:
		return "an amount: write it as 250000, 64k, 100M or 2.5G"
	case *Duration:
		return "a duration: write it as 30s, 10m or 1h30m"
	case *time.Time:
		return "a time: write it as 2026-01-31T12:00:00Z"
	}
	return "text of the form that is read here"
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.node(n, path, "is %s, not %s", what(n), wanted(v))
		return
	}
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if tag != "!!str" {
			d.node(n, path, "is %s, not text: write it in quotes", what(n))
		} else if !printable(n.Value) {
			d.node(n, path, "%s holds control characters: remove them", quote(n.Value))
		} else {
			v.SetString(n.Value)
			return
		}
	case reflect.Bool:
		if n.Value == "true" || n.Value == "false" {
			v.SetBool(n.Value == "true")
			return
		}
		d.node(n, path, "%s is neither true nor false", quote(n.Value))
	case reflect.Float64:
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && tag != "!!str" {
			v.SetFloat(f)
			return
		}
		d.node(n, path, "%s is not a number", quote(n.Value))
	default:
		d.number(n, v, path)
	}
}

// number reads a whole number that must fit its field.
func (d *decoder) number(n *yaml.Node, v reflect.Value, path string) {
	var err error
	switch {
	case n.ShortTag() != "!!int":
		err = strconv.ErrSyntax
	case v.CanInt():
		var i int64
		if i, err = strconv.ParseInt(n.Value, 10, v.Type().Bits()); err == nil {
			v.SetInt(i)
		}
	case v.CanUint():
		var u uint64
		if u, err = strconv.ParseUint(n.Value, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
		}
	}
	if err != nil {
		d.node(n, path, "%s is not %s", quote(n.Value), wanted(v))
	}
}

func wanted(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	}
	return fmt.Sprintf("a whole number from 0 to %d", ^uint64(0)>>(64-v.Type().Bits()))
}

// what names the kind of a node for people.
func what(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + quote(n.Value)
	case "!!bool":
		return "the truth value " + quote(n.Value)
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "the date " + quote(n.Value)
	}
	return "the text " + quote(n.Value)
}

func join(path, name string) string {
	if len(name) > MaxName {
		name = name[:MaxName] + "…"
	}
	name = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if !printable(string(r)) || r == '\n' {
			return '?'
		}
		return r
	}, name), "?")
	if path == "" {
		return name
	}
	return path + "." + name
}

// field is the value of a mapping's entry; nil when there is none.
func field(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// locate is the node of a path such as spec.addresses[1] or metadata.labels["a.b/c"], or the nearest that contains it.
func locate(n *yaml.Node, path string) *yaml.Node {
	for path != "" {
		var next *yaml.Node
		switch {
		case strings.HasPrefix(path, `["`):
			key, err := strconv.QuotedPrefix(path[1:])
			if err != nil {
				return n
			}
			name, _ := strconv.Unquote(key)
			next, path = field(n, name), path[1+len(key):]
			path = strings.TrimPrefix(path, "]")
		case path[0] == '[':
			index, rest, _ := strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(index)
			if err == nil && n.Kind == yaml.SequenceNode && i < len(n.Content) {
				next = n.Content[i]
			}
			path = rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			next, path = field(n, path[:end]), path[end:]
		}
		path = strings.TrimPrefix(path, ".")
		if next == nil {
			return n
		}
		n = next
	}
	return n
}
