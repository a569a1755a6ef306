package server

import (
	"context"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

func (s *Server) reportOperations() {
	register(s, api.ReportHost(), s.reportHost)
	register(s, api.ReportHostStatus(), s.reportStatus)
	register(s, api.ReportPortLocation(), s.reportLocation)
	register(s, api.ReportMoveStatus(), s.reportMove)
}

// hears checks that this host takes reports and that the caller speaks of itself.
func (s *Server) hears(ctx context.Context, about fabric.HostID) error {
	if s.o.Reports == nil || !s.o.Writes {
		return absent("take reports: it is not a server host")
	}
	return s.self(ctx, about)
}

func (s *Server) reportHost(ctx context.Context, in *struct{ Body fabric.Host }) (*struct{}, error) {
	if err := s.hears(ctx, fabric.HostID(in.Body.Metadata.Name)); err != nil {
		return nil, err
	}
	if err := in.Body.Validate(); err != nil {
		return nil, err
	}
	if err := s.o.Reports.ReportHost(ctx, &in.Body); err != nil {
		return nil, err
	}
	return nil, nil
}

func (s *Server) reportStatus(ctx context.Context, in *struct{ Body api.StatusReport }) (*struct{}, error) {
	if err := s.hears(ctx, in.Body.Host); err != nil {
		return nil, err
	}
	if err := s.o.Reports.ReportStatus(ctx, in.Body.Host, in.Body.Status); err != nil {
		return nil, err
	}
	return nil, nil
}

func (s *Server) reportLocation(ctx context.Context, in *struct{ Body api.LocationReport }) (*answer[fabric.Location], error) {
	if err := s.hears(ctx, in.Body.Host); err != nil {
		return nil, err
	}
	l, err := s.o.Reports.ReportLocation(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &answer[fabric.Location]{l}, nil
}

func (s *Server) reportMove(ctx context.Context, in *struct{ Body api.MoveReport }) (*answer[*fabric.Move], error) {
	if err := s.hears(ctx, in.Body.Host); err != nil {
		return nil, err
	}
	m, err := s.o.Reports.ReportMove(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &answer[*fabric.Move]{m}, nil
}
