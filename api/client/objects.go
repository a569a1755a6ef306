package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Get returns the object of this kind and name; fabric.ErrNotFound when there is none.
func (c *Client) Get(ctx context.Context, kind fabric.Kind, name string) (fabric.Object, error) {
	r, err := api.ResourceOf(string(kind))
	if err != nil {
		return nil, err
	}
	o, err := fabric.New(r.Kind)
	if err != nil {
		return nil, err
	}
	return o, c.call(ctx, http.MethodGet, r.Path(url.PathEscape(name)), nil, o)
}

// List returns all objects of a kind in the order of their names.
func (c *Client) List(ctx context.Context, kind fabric.Kind) (api.List[fabric.Object], error) {
	r, err := api.ResourceOf(string(kind))
	if err != nil {
		return api.List[fabric.Object]{}, err
	}
	return c.list(ctx, r, r.Path(""))
}

// Counted returns all ports with their counters, which their hosts are asked for.
func (c *Client) Counted(ctx context.Context) (api.List[fabric.Object], error) {
	r, err := api.ResourceOf(string(fabric.KindPort))
	if err != nil {
		return api.List[fabric.Object]{}, err
	}
	return c.list(ctx, r, r.Path("")+"?counters=true")
}

func (c *Client) list(ctx context.Context, r api.Resource, path string) (_ api.List[fabric.Object], err error) {
	var raw api.List[json.RawMessage]
	if err := c.call(ctx, http.MethodGet, path, nil, &raw); err != nil {
		return api.List[fabric.Object]{}, err
	}
	list := api.List[fabric.Object]{Revision: raw.Revision, Stale: raw.Stale, Items: make([]fabric.Object, len(raw.Items))}
	for i, b := range raw.Items {
		if list.Items[i], err = fabric.New(r.Kind); err != nil {
			return api.List[fabric.Object]{}, err
		}
		if err := json.Unmarshal(b, list.Items[i]); err != nil {
			return api.List[fabric.Object]{}, fmt.Errorf("read %s %d of the list from %s: %w", r.Singular, i, c.where, err)
		}
	}
	return list, nil
}

// Port returns one port; fabric.ErrNotFound when there is none.
func (c *Client) Port(ctx context.Context, name fabric.PortID) (*fabric.Port, error) {
	var p fabric.Port
	return &p, c.call(ctx, http.MethodGet, "/v1/ports/"+url.PathEscape(string(name)), nil, &p)
}

// Ports returns all ports with their status.
func (c *Client) Ports(ctx context.Context) ([]fabric.Port, error) {
	var l api.List[fabric.Port]
	err := c.call(ctx, http.MethodGet, "/v1/ports", nil, &l)
	return l.Items, err
}

// Switches returns all switches with their status.
func (c *Client) Switches(ctx context.Context) ([]fabric.Switch, error) {
	var l api.List[fabric.Switch]
	err := c.call(ctx, http.MethodGet, "/v1/switches", nil, &l)
	return l.Items, err
}

// Apply makes the objects be as given, all or none.
func (c *Client) Apply(ctx context.Context, objects []fabric.Object, dryRun bool) (api.ApplyResult, error) {
	return c.apply(ctx, objects, api.ApplyRequest{DryRun: dryRun})
}

// ApplyForNow is Apply of a change that the called host undoes after the time unless it is confirmed.
func (c *Client) ApplyForNow(ctx context.Context, objects []fabric.Object, within time.Duration) (api.ApplyResult, error) {
	return c.apply(ctx, objects, api.ApplyRequest{ConfirmSeconds: within.Seconds()})
}

// ConfirmHeld goes on with what the called host holds for a person's word; fabric.ErrNotFound when it holds nothing.
func (c *Client) ConfirmHeld(ctx context.Context) (api.Confirmed, error) {
	var out api.Confirmed
	return out, c.call(ctx, http.MethodPost, "/v1/held/confirm", struct{}{}, &out)
}

// Confirm keeps the change that the called host would undo; fabric.ErrNotFound when there is none.
func (c *Client) Confirm(ctx context.Context) (api.Pending, error) {
	var p api.Pending
	return p, c.call(ctx, http.MethodPost, "/v1/confirm", nil, &p)
}

func (c *Client) apply(ctx context.Context, objects []fabric.Object, req api.ApplyRequest) (api.ApplyResult, error) {
	req.Objects = make([]json.RawMessage, len(objects))
	for i, o := range objects {
		b, err := json.Marshal(o)
		if err != nil {
			return api.ApplyResult{}, fmt.Errorf("write %s %s: %w", o.Type().Kind, o.Meta().Name, err)
		}
		req.Objects[i] = b
	}
	var res api.ApplyResult
	return res, c.call(ctx, http.MethodPost, "/v1/apply", req, &res)
}

// Delete removes an object; fabric.ErrConflict when something still uses it, or when it is a port that is plugged in.
func (c *Client) Delete(ctx context.Context, kind fabric.Kind, name string) (api.ApplyResult, error) {
	r, err := api.ResourceOf(string(kind))
	if err != nil {
		return api.ApplyResult{}, err
	}
	var res api.ApplyResult
	return res, c.call(ctx, http.MethodDelete, r.Path(url.PathEscape(name)), nil, &res)
}

// RenameSwitch gives a switch another name.
func (c *Client) RenameSwitch(ctx context.Context, from, to fabric.SwitchID) (api.ApplyResult, error) {
	var res api.ApplyResult
	return res, c.call(ctx, http.MethodPost, "/v1/switches/"+url.PathEscape(string(from))+"/rename", api.Rename{To: to}, &res)
}

// DeletePlugged removes a port although it is plugged in, and cuts its guest off.
func (c *Client) DeletePlugged(ctx context.Context, port fabric.PortID) (api.ApplyResult, error) {
	var res api.ApplyResult
	return res, c.call(ctx, http.MethodDelete, "/v1/ports/"+url.PathEscape(string(port))+"?force=true", nil, &res)
}

// Attach binds a port to a device of the host that is called. Attaching twice to the same device succeeds.
func (c *Client) Attach(ctx context.Context, port fabric.PortID, a api.Attachment) (api.Attached, error) {
	var res api.Attached
	return res, c.call(ctx, http.MethodPost, "/v1/ports/"+url.PathEscape(string(port))+"/attach", a, &res)
}

// Detach takes a port off its device on the host that is called. Detaching nothing succeeds.
func (c *Client) Detach(ctx context.Context, port fabric.PortID) error {
	return c.call(ctx, http.MethodPost, "/v1/ports/"+url.PathEscape(string(port))+"/detach", nil, nil)
}
