// Package store keeps the fabric's wanted state in etcd: one record per object, one transaction per change, values that
// must be unique held by index records, and a snapshot that follows every change and is never trusted to a watch alone.
// It is the only package that knows etcd's client.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftnet/weft/fabric"
)

// ErrUnavailable: etcd did not answer, or answered that it cannot serve. What was in force stays in force.
var ErrUnavailable = errors.New("etcd is not available")

// ErrNotAllowed: etcd knows who asks by the certificate, and that user may not do this.
var ErrNotAllowed = errors.New("etcd does not allow it")

// Options say where etcd is.
type Options struct {
	// Endpoints are the members' client URLs, https://10.240.0.1:2379; at least one.
	Endpoints []string
	// TLS is the client configuration of the etcd user this host is: fabric.EtcdWriter or fabric.EtcdReader.
	TLS *tls.Config
	// Logger gets repairs, holds and lost connections; discarded when nil.
	Logger *slog.Logger
	// Timeout bounds one request; 5 s when 0.
	Timeout time.Duration
}

// Store reads and writes the fabric's records. It is safe for concurrent use.
type Store struct {
	client    *clientv3.Client
	log       *slog.Logger
	endpoints string
	timing    timing
	random    func(n uint32) uint32 // chance comes in as a value: 0 ≤ result < n

	mu     sync.Mutex
	leases map[fabric.HostID]*lease
	hold   string // why a Follow of this store holds; empty when none does
	// positions are how far the Follows of this store are.
	positions []*position
}

// timing gathers every duration, so that tests can shorten them.
type timing struct {
	request  time.Duration // one request
	progress time.Duration // between questions whether the watch missed something, and probes of history
	stale    time.Duration // silence after which a watch is given up
	compare  time.Duration // between full compares by digest
	retry    time.Duration // before a broken watch is tried again, at least
	hold     time.Duration // between looks whether a hold is over
	lease    time.Duration // life of a status that is not reported again
}

var defaultTiming = timing{
	request: 5 * time.Second, progress: 4 * time.Second, stale: 12 * time.Second, compare: time.Minute,
	retry: 200 * time.Millisecond, hold: 2 * time.Second, lease: 10 * time.Second,
}

// Open prepares the connection and returns at once: etcd need not be there yet. Close it after use.
func Open(_ context.Context, o Options) (*Store, error) {
	if len(o.Endpoints) == 0 {
		return nil, fmt.Errorf("open store: no etcd endpoint: give at least one as https://address:2379: %w", fabric.ErrInvalid)
	}
	for _, e := range o.Endpoints {
		if !strings.HasPrefix(e, "https://") {
			return nil, fmt.Errorf("open store: endpoint %q: write https://address:2379, etcd is reached over TLS only: %w", e, fabric.ErrInvalid)
		}
	}
	if o.TLS == nil {
		return nil, fmt.Errorf("open store: no client certificate for etcd at %s: %w", strings.Join(o.Endpoints, ", "), fabric.ErrInvalid)
	}
	s := &Store{
		log: o.Logger, endpoints: strings.Join(o.Endpoints, ", "), timing: defaultTiming,
		random: rand.Uint32N, leases: map[fabric.HostID]*lease{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout > 0 {
		s.timing.request = o.Timeout
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Logger: zap.NewNop(), MaxCallSendMsgSize: 2 * maxRequest,
		DialTimeout: s.timing.request, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open store at %s: %w", s.endpoints, err)
	}
	s.client = client
	return s, nil
}

// Close withdraws the statuses that were reported through this store and ends the connection. Follows must have ended.
func (s *Store) Close() error {
	s.withdraw()
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close store at %s: %w", s.endpoints, err)
	}
	return nil
}

// Get returns one object, with its revision in the metadata; fabric.ErrNotFound when it does not exist.
func (s *Store) Get(ctx context.Context, kind fabric.Kind, name string) (fabric.Object, error) {
	d := s.newDraft(ctx)
	o, err := d.object(kind, name)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return nil, fmt.Errorf("%s %s: %w", word(kind), name, fabric.ErrNotFound)
	}
	return o, nil
}

// List returns all objects of a kind, in the order of their names. A record that cannot be read is an error.
func (s *Store) List(ctx context.Context, kind fabric.Kind) ([]fabric.Object, error) {
	records, err := s.newDraft(ctx).scan(kindPrefix(kind), false)
	if err != nil {
		return nil, err
	}
	objects := make([]fabric.Object, 0, len(records))
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// Snapshot returns everything at one revision, linearizably: what was written before the call is in it. It is cheap while
// a Follow of the same store runs; else it reads all records.
func (s *Store) Snapshot(ctx context.Context) (*fabric.Snapshot, error) {
	if snap := s.followed(ctx); snap != nil {
		return snap, nil
	}
	t := newTable(nil)
	if err := t.load(ctx, s, 0); err != nil {
		return nil, err
	}
	return t.snapshot(), nil
}

// SnapshotAt returns everything as it was at a past revision, from etcd's history. Errors: fabric.ErrNotFound when etcd has compacted it,
// or has not come to it yet; ErrUnavailable.
func (s *Store) SnapshotAt(ctx context.Context, rev fabric.Revision) (*fabric.Snapshot, error) {
	t := newTable(nil)
	switch err := t.load(ctx, s, int64(rev)); {
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil, fmt.Errorf("the records at revision %d: etcd has compacted its history up to a later one and keeps them no more: %w", rev, fabric.ErrNotFound)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return nil, fmt.Errorf("the records at revision %d: etcd has not come to it yet: %w", rev, fabric.ErrNotFound)
	case err != nil:
		return nil, err
	}
	return t.snapshot(), nil
}

// call bounds one request.
func (s *Store) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timing.request)
}

// failed says what a failed request means and what to do about it.
func (s *Store) failed(doing string, err error) error {
	code := codeOf(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, rpctypes.ErrNoSpace), strings.Contains(err.Error(), "database space exceeded"):
		return fmt.Errorf("%s: etcd at %s is full (alarm NOSPACE) and takes no writes: compact and defragment it, then disarm the alarm with etcdctl: %w",
			doing, s.endpoints, errors.Join(ErrUnavailable, err))
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%s: the change is too large for one transaction of etcd at %s: apply fewer objects at once, or raise its --max-txn-ops and --max-request-bytes: %w",
			doing, s.endpoints, errors.Join(fabric.ErrInvalid, err))
	case code == codes.PermissionDenied, code == codes.Unauthenticated:
		return fmt.Errorf("%s: etcd at %s does not let this certificate do that: a server host shows that of user %s, every other host that of %s and writes through a server host; see etcd.tls in agent.yaml: %w",
			doing, s.endpoints, fabric.EtcdWriter, fabric.EtcdReader, errors.Join(ErrNotAllowed, err))
	case ambiguous(err):
		return fmt.Errorf("%s: etcd at %s did not answer: check that a majority of its members runs and that this host reaches them: %w",
			doing, s.endpoints, errors.Join(ErrUnavailable, err))
	}
	return fmt.Errorf("%s: etcd at %s: %w", doing, s.endpoints, err)
}

// ambiguous reports whether a request may or may not have been carried out.
func ambiguous(err error) bool {
	switch codeOf(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// codeOf is the code that etcd answered with; its client wraps the answers it knows in a type that hides it from gRPC.
func codeOf(err error) codes.Code {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code()
	}
	return status.Code(err)
}
