package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Judged reads everything that decides what becomes of packets: switches, ports, profiles, policies, groups and mirrors, and the hosts.
func (c *Client) Judged(ctx context.Context) (*fabric.Snapshot, error) {
	s := &fabric.Snapshot{
		Switches: map[fabric.SwitchID]*fabric.Switch{}, Ports: map[fabric.PortID]*fabric.Port{}, Profiles: map[string]*fabric.Profile{},
		Policies: map[string]*fabric.Policy{}, Groups: map[string]*fabric.Group{},
		Mirrors: map[string]*fabric.Mirror{}, Hosts: map[fabric.HostID]*fabric.Host{},
	}
	for _, kind := range []fabric.Kind{fabric.KindGroup, fabric.KindPolicy, fabric.KindProfile, fabric.KindSwitch, fabric.KindPort, fabric.KindMirror, fabric.KindHost} {
		list, err := c.List(ctx, kind)
		if err != nil {
			return nil, err
		}
		s = s.With(list.Items...)
	}
	return s, nil
}

// JudgedWith is Judged as it would be after an apply of objects, with what that would allocate; nothing is changed.
func (c *Client) JudgedWith(ctx context.Context, objects []fabric.Object) (*fabric.Snapshot, error) {
	res, err := c.Apply(ctx, objects, true)
	if err != nil {
		return nil, err
	}
	s, err := c.Judged(ctx)
	if err != nil {
		return nil, err
	}
	for _, item := range res.Items {
		if item.Outcome == api.Unchanged || len(item.Object) == 0 {
			continue
		}
		o, err := fabric.New(item.Kind)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(item.Object, o); err != nil {
			return nil, fmt.Errorf("read what would become of %s %s: %w", item.Kind, item.Name, err)
		}
		s = s.With(o)
	}
	return s, nil
}

// Decisions compares what becomes of packets before and after an apply of objects; nothing is changed.
func (c *Client) Decisions(ctx context.Context, objects []fabric.Object) (policy.Changes, error) {
	before, err := c.Judged(ctx)
	if err != nil {
		return policy.Changes{}, err
	}
	after, err := c.JudgedWith(ctx, objects)
	if err != nil {
		return policy.Changes{}, err
	}
	return policy.Compare(before, after), nil
}
