package api

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// Decode reads one object from JSON, strictly: an unknown field is an error. The error wraps fabric.ErrInvalid.
func Decode(b []byte) (fabric.Object, error) {
	var head fabric.TypeMeta
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("an object is not JSON: %w: %w", err, fabric.ErrInvalid)
	}
	o, err := fabric.New(head.Kind)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", head.Kind, err, fabric.ErrInvalid)
	}
	return o, nil
}
