package server

import (
	"context"
	"errors"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// rename gives a switch another name.
func (s *Server) rename(ctx context.Context, in *struct {
	Name string `path:"name" doc:"Name of the switch"`
	Body api.Rename
}) (*answer[api.ApplyResult], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	rev, err := s.o.Objects.RenameSwitch(ctx, fabric.SwitchID(in.Name), in.Body.To, traceparent(ctx))
	if errors.Is(err, fabric.ErrNotFound) {
		return nil, missing(api.Resource{Singular: "switch", Plural: "switches"}, in.Name)
	}
	if err != nil {
		return nil, about("switch/"+in.Name, err)
	}
	return &answer[api.ApplyResult]{api.ApplyResult{
		Revision: rev, TraceID: traceID(ctx), Items: []api.Applied{{Kind: fabric.KindSwitch, Name: string(in.Body.To), Outcome: api.Renamed}},
	}}, nil
}
