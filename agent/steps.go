package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
)

// apply carries the steps out. A step that fails is tried again port by port, so that one device that the kernel refuses
// does not keep the others from their settings.
func (k *keeper) apply(ctx context.Context, steps []datapath.Change) error {
	var failed error
	for _, step := range steps {
		err := k.plane.Apply(ctx, step)
		if err == nil {
			continue
		}
		failed = fmt.Errorf("put the change in force: %w", err)
		rest := step
		rest.Put.Ports, rest.Delete.Ports = nil, nil
		for _, part := range append(portByPort(step), rest) {
			if err := k.plane.Apply(ctx, part); err != nil {
				failed = fmt.Errorf("put the change in force: %w", err)
			}
		}
	}
	return failed
}

// portByPort splits the ports of a change.
func portByPort(c datapath.Change) []datapath.Change {
	var parts []datapath.Change
	for device, p := range c.Put.Ports {
		parts = append(parts, datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{device: p}}})
	}
	for device, p := range c.Delete.Ports {
		parts = append(parts, datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{device: p}}})
	}
	return parts
}

// describe counts what steps change, for people.
func describe(steps []datapath.Change) string {
	puts, deletes := 0, 0
	var ports []string
	for _, c := range steps {
		puts += plan.Entries(c.Put)
		deletes += plan.Entries(c.Delete)
		for device := range c.Put.Ports {
			ports = append(ports, device)
		}
	}
	text := fmt.Sprintf("%d entries to write, %d to remove", puts, deletes)
	if len(ports) > 0 {
		slices.Sort(ports)
		text += fmt.Sprintf(", devices %v", ports)
	}
	return text
}
