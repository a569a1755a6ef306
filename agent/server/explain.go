package server

import (
	"context"
	"fmt"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/tracing"
)

// explain says what the records and the model make of a packet: now, at a past revision, or with objects that are only proposed.
func (s *Server) explain(ctx context.Context, r api.TraceRequest) (*answer[*tracing.Path], error) {
	if s.o.Prober == nil || s.o.Objects == nil {
		return nil, absent("trace packets")
	}
	snap, err := s.thought(ctx, r)
	if err != nil {
		return nil, err
	}
	at := snap.Revision
	if r, err = addressed(snap, r); err != nil {
		e := failure(err)
		e.Message += fmt.Sprintf(" at revision %d", at)
		return nil, e
	}
	path, err := s.o.Prober.Explain(snap, r)
	if err != nil {
		return nil, about("port/"+string(r.Source), err)
	}
	return &answer[*tracing.Path]{path}, nil
}

// thought are the records that a request wants to be judged by.
func (s *Server) thought(ctx context.Context, r api.TraceRequest) (*fabric.Snapshot, error) {
	switch {
	case r.Revision != 0 && len(r.With) > 0:
		return nil, &api.Error{Code: api.CodeInvalid, Field: "with", Message: "explain: objects are checked against the newest records, not against those of a past revision", Next: "leave out the revision or the objects"}
	case r.Revision != 0:
		snap, err := s.o.Objects.SnapshotAt(ctx, r.Revision)
		if err != nil {
			e := failure(err)
			e.Next = "the revision of a record is its metadata.revision: weft get policy NAME -o json"
			return nil, e
		}
		return snap, nil
	}
	v, err := s.view(ctx)
	if err != nil || len(r.With) == 0 {
		return v.records(), err
	}
	objects, err := decode(ctx, r.With)
	if err != nil {
		return nil, err
	}
	res, err := s.o.Objects.Apply(ctx, objects, store.ApplyOptions{DryRun: true})
	if err != nil {
		return nil, fmt.Errorf("explain with what is proposed: %w", err)
	}
	changed := make([]fabric.Object, len(res.Objects))
	for i, a := range res.Objects {
		changed[i] = a.Object
	}
	return v.snap.With(changed...), nil
}

// records are the wanted state; nil of no view.
func (v *view) records() *fabric.Snapshot {
	if v == nil {
		return nil
	}
	return v.snap
}
