package fabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Encode writes objects as YAML documents that Decode reads back as the same.
func Encode(w io.Writer, objects ...Object) error {
	for i, o := range objects {
		text, err := encode(o)
		if err != nil {
			return fmt.Errorf("encode %s: %w", Ref(o), err)
		}
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("write %s: %w", Ref(o), err)
		}
	}
	return nil
}

// encode goes through JSON, whose tags name the fields; keys come out in the order of the alphabet, which is apiVersion,
// kind, metadata, spec, status.
func encode(o Object) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var tree map[string]any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(tidy(tree)); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

// tidy removes fields without a value, because absent is written by leaving a field out, and makes numbers numbers again.
func tidy(tree any) any {
	switch t := tree.(type) {
	case map[string]any:
		for k, v := range t {
			if v == nil {
				delete(t, k)
				continue
			}
			t[k] = tidy(v)
		}
	case []any:
		for i, v := range t {
			t[i] = tidy(v)
		}
	case json.Number:
		if i, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return i
		}
		if u, err := strconv.ParseUint(t.String(), 10, 64); err == nil {
			return u
		}
		if f, err := t.Float64(); err == nil {
			return f
		}
	}
	return tree
}
