package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Difference is what an apply would do to one object.
type Difference struct {
	Kind    fabric.Kind
	Name    string
	Outcome api.Outcome
	Fields  []api.FieldChange
}

// Diff compares objects with what is stored, allocations included, and changes nothing.
func (c *Client) Diff(ctx context.Context, objects []fabric.Object) ([]Difference, error) {
	res, err := c.Apply(ctx, objects, true)
	if err != nil {
		return nil, err
	}
	out := make([]Difference, len(res.Items))
	for i, item := range res.Items {
		out[i] = Difference{Kind: item.Kind, Name: item.Name, Outcome: item.Outcome}
		if item.Outcome == api.Unchanged {
			continue
		}
		if out[i].Fields, err = c.fields(ctx, item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fields are the fields in which an object would differ from what is stored.
func (c *Client) fields(ctx context.Context, item api.Applied) ([]api.FieldChange, error) {
	wanted, err := fabric.New(item.Kind)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(item.Object, wanted); err != nil {
		return nil, fmt.Errorf("read %s %s of the answer: %w", item.Kind, item.Name, err)
	}
	stored, err := c.Get(ctx, item.Kind, item.Name)
	if errors.Is(err, fabric.ErrNotFound) {
		return api.Diff(nil, wanted)
	}
	if err != nil {
		return nil, err
	}
	return api.Diff(stored, wanted)
}

// Export returns everything users wrote, as they would write it: without status and what the fabric keeps in the metadata,
// referred-to kinds first.
func (c *Client) Export(ctx context.Context) ([]fabric.Object, error) {
	var out []fabric.Object
	for _, r := range api.Resources() {
		if !r.Settable {
			continue
		}
		list, err := c.List(ctx, r.Kind)
		if err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			o, err := api.Written(o)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	return out, nil
}
