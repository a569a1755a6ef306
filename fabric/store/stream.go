package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// errSilent ends a watch on which nothing was heard for too long.
var errSilent = errors.New("the watch is silent although etcd was asked for a sign of life")

// stream is one etcd watch. It is the bare one, not the client's, which resumes by itself after a break: after a restore
// from an old backup such a watch stays silent, or goes on in another history, without an error (ADR 8). Any break ends a stream,
// and who follows compares before opening the next.
type stream struct {
	from  int64
	below string
	// events gets the changes of one response, all of them complete up to the revision.
	events func(rev int64, events []*mvccpb.Event) error
	// tick is called between events, about once per timing.progress; an error ends the stream.
	tick func(context.Context) error
	// ask makes the stream ask etcd at once up to which revision it has sent everything; it may be nil.
	ask <-chan struct{}
}

// run watches until ctx ends, the stream breaks, or a callback fails; it always returns an error.
func (w stream) run(ctx context.Context, s *Store) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	conn, err := pb.NewWatchClient(s.client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		cancel()
		return s.failed("watch "+w.below, err)
	}
	responses, broken := make(chan *pb.WatchResponse), make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := conn.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case responses <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-done
	}()
	create := &pb.WatchCreateRequest{
		Key: []byte(w.below), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(w.below)), StartRevision: w.from, ProgressNotify: true,
	}
	if err := conn.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return s.failed("watch "+w.below, err)
	}
	return w.loop(ctx, s, conn, responses, broken)
}

func (w stream) loop(ctx context.Context, s *Store, conn pb.Watch_WatchClient, responses <-chan *pb.WatchResponse, broken <-chan error) error {
	ask := time.NewTicker(s.timing.progress)
	defer ask.Stop()
	silence := time.NewTimer(s.timing.stale)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return s.failed("watch "+w.below, err)
		case <-silence.C:
			return fmt.Errorf("watch %s at %s for %v: %w", w.below, s.endpoints, s.timing.stale, errSilent)
		case <-w.ask:
			if err := conn.Send(progressRequest()); err != nil {
				return s.failed("watch "+w.below, err)
			}
		case <-ask.C:
			if err := conn.Send(progressRequest()); err != nil {
				return s.failed("watch "+w.below, err)
			}
			if err := w.tick(ctx); err != nil {
				return err
			}
		case r := <-responses:
			silence.Reset(s.timing.stale)
			if r.Canceled {
				return fmt.Errorf("watch %s from revision %d at %s: etcd ended it (%s; compacted up to %d)", w.below, w.from, s.endpoints, r.CancelReason, r.CompactRevision)
			}
			if r.Created {
				continue
			}
			if err := w.events(r.Header.Revision, r.Events); err != nil {
				return err
			}
		}
	}
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// changesOf turns the events of a watch into changes.
func changesOf(events []*mvccpb.Event) []change {
	changes := make([]change, 0, len(events))
	for _, e := range events {
		changes = append(changes, change{record: recordOf(e.Kv), deleted: e.Type == mvccpb.Event_DELETE})
	}
	return changes
}
