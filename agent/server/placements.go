package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
)

// placementsOf asks where one VM can go, or all of a host.
type placementsOf struct {
	VM   string          `query:"vm" doc:"Of each other host, whether this VM can move there"`
	From fabric.HostID   `query:"from" doc:"Instead of vm: for each VM of this host, where it should go"`
	To   []fabric.HostID `query:"to,explode" doc:"With from: to these hosts only"`
}

// placements answers where VMs can go. Nothing is changed, and nothing is reserved.
func (s *Server) placements(ctx context.Context, in *placementsOf) (*answer[api.List[api.Placement]], error) {
	if (in.VM == "") == (in.From == "") {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "vm", Message: "find places for VMs: give either the VM or the host that all are to leave", Next: "for example: weft migrate web-1 --plan"}
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	for _, host := range append([]fabric.HostID{in.From}, in.To...) {
		if host != "" && v.snap.Hosts[host] == nil {
			return nil, missing(api.Resource{Singular: "host", Plural: "hosts"}, string(host))
		}
	}
	var found []migration.Placement
	if in.VM != "" {
		found = migration.Candidates(v.snap, v.statuses, in.VM)
	} else {
		found = migration.Evacuate(v.snap, v.statuses, in.From, in.To)
	}
	out := api.List[api.Placement]{Items: make([]api.Placement, 0, len(found))}
	for _, p := range found {
		a := api.Placement{VM: p.VM, From: p.From, To: p.To, Ports: p.Ports}
		for _, f := range p.Against {
			if f.Code == "vm-unknown" || f.Code == "host-port" {
				return nil, fmt.Errorf("find places for %s: %s. %s: %w", in.VM, f.What, strings.TrimSuffix(f.Fix, "."), fabric.ErrNotFound)
			}
			a.Against = append(a.Against, api.Obstacle(f))
		}
		out.Items = append(out.Items, a)
	}
	return &answer[api.List[api.Placement]]{out}, nil
}
