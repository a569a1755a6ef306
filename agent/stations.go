package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Stations are those that this host has heard on the wires of its external switches.
func (a *Agent) Stations(ctx context.Context) ([]api.Station, error) {
	snap := a.Latest()
	if snap == nil {
		return nil, api.ErrUnavailable
	}
	heard, err := a.machine.Heard(ctx)
	if err != nil || len(heard) == 0 {
		return nil, err
	}
	of := map[fabric.VNI]fabric.SwitchID{}
	for name, sw := range snap.Switches {
		of[sw.Spec.VNI] = name
		for _, v := range sw.Spec.VLANs {
			of[v.VNI] = name
		}
	}
	out := make([]api.Station, 0, len(heard))
	for key, h := range heard {
		out = append(out, api.Station{Switch: of[key.VNI], VNI: key.VNI, MAC: key.MAC, Host: a.config.Host, NIC: h.Device, AgoSeconds: h.Ago.Seconds()})
	}
	slices.SortFunc(out, func(x, y api.Station) int {
		return cmp.Or(cmp.Compare(x.Switch, y.Switch), cmp.Compare(x.VNI, y.VNI), slices.Compare(x.MAC[:], y.MAC[:]))
	})
	return out, nil
}
