package agent

import (
	"context"

	"github.com/weftnet/weft/fabric"
)

// Ports are the ports attached here, with their counters; see server.Plugs.
func (a *Agent) Ports(ctx context.Context) ([]fabric.PortStatus, error) {
	counters, err := a.machine.Counters(ctx)
	if err != nil {
		return nil, err
	}
	return counted(a.Status().Ports, counters), nil
}
