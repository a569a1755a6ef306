// Package server answers the host API of one agent: on a unix socket for users of the same machine, told apart by their
// peer credentials, and over mutual TLS for everybody else. It decides who may do what and how errors look; what is asked
// for is done by the agent and the store, behind the small interfaces of this file.
package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/tracing"
)

// Objects is the wanted state of the fabric; *store.Store is one.
type Objects interface {
	Apply(ctx context.Context, objects []fabric.Object, o store.ApplyOptions) (store.ApplyResult, error)
	Delete(ctx context.Context, kind fabric.Kind, name string) (fabric.Revision, error)
	RenameSwitch(ctx context.Context, from, to fabric.SwitchID, trace string) (fabric.Revision, error)
	Snapshot(ctx context.Context) (*fabric.Snapshot, error)
	SnapshotAt(ctx context.Context, rev fabric.Revision) (*fabric.Snapshot, error)
	Follow(ctx context.Context, each func(*fabric.Snapshot)) error
}

// Statuses is what the hosts last said about themselves; *store.Store is one.
type Statuses interface {
	Statuses(ctx context.Context) (map[fabric.HostID]fabric.HostStatus, error)
	FollowStatuses(ctx context.Context, each func(map[fabric.HostID]fabric.HostStatus)) error
}

// Plugs are the ports' devices on this host.
type Plugs interface {
	// Attach returns when the port is in force on the device, or says why it cannot be.
	Attach(ctx context.Context, port fabric.PortID, a api.Attachment) (fabric.PortStatus, error)
	Detach(ctx context.Context, port fabric.PortID) error
	// Ports are the ports attached here, with their counters.
	Ports(ctx context.Context) ([]fabric.PortStatus, error)
	// Drops are those of this host, at its ports and at none, in the order of ports and reasons.
	Drops(ctx context.Context) ([]tracing.Drop, error)
	// Remembered is what the rules of these ports remember, those of them that are here, in the order asked.
	Remembered(ctx context.Context, ports []fabric.PortID) ([]api.Remembered, error)
	// Stations are those that this host has heard on the wire, in the order of switches and MACs.
	Stations(ctx context.Context) ([]api.Station, error)
	// Left is what a port that moves away takes along; fabric.ErrNotFound when it does not move.
	Left(ctx context.Context, port fabric.PortID, since api.LeftSince) (api.Left, error)
	// Aside takes what the destination of a move from here says itself. Errors: fabric.ErrNotFound, fabric.ErrInvalid.
	Aside(ctx context.Context, r api.MoveReport) error
}

// Fleet is what this host knows of the others without asking them.
type Fleet interface {
	// Alive are the hosts that gossip says are there, this one included.
	Alive() map[fabric.HostID]bool
	Etcd(ctx context.Context) (api.Etcd, error)
	// Latest is the newest wanted state this host knows, there even when etcd is not; nil before the first.
	Latest() *fabric.Snapshot
}

// Moves starts and ends live migrations.
type Moves interface {
	Start(ctx context.Context, r api.MoveRequest) (*fabric.Move, error)
	Abort(ctx context.Context, id fabric.MoveID) (*fabric.Move, error)
}

// Prober follows packets.
type Prober interface {
	// Trace follows one probe through the fabric, wherever its port is.
	Trace(ctx context.Context, r api.TraceRequest) (*tracing.Path, error)
	// Explain says by records alone what would become of the first packet of such a connection.
	Explain(snap *fabric.Snapshot, r api.TraceRequest) (*tracing.Path, error)
	// Examine finds out all that probes and the model can say about the way; the server adds what the hosts have counted.
	Examine(ctx context.Context, r api.TraceRequest) (*tracing.Examination, error)
	// Arm, Inject, Hops and Disarm act on this host only; see tracing.Fabric. Inject refuses a frame that no armed session
	// will catch, or a host's certificate would be a way to speak for any guest.
	Arm(ctx context.Context, s tracing.Session) error
	Inject(ctx context.Context, port fabric.PortID, frame []byte, times int) error
	Hops(ctx context.Context, s tracing.Session) ([]tracing.Hop, error)
	Disarm(ctx context.Context, s tracing.Session) error
}

// Trials run throw-away guests.
type Trials interface {
	// Try does what is asked, on the host that is named; there are results of a check only.
	Try(ctx context.Context, r api.TrialRequest) ([]api.TrialCheckResult, error)
}

// Host is this host itself.
type Host interface {
	Doctor(ctx context.Context) ([]api.Finding, error)
	// Events calls each with what happened here after the event of that number, oldest first; with follow it goes on until
	// ctx ends.
	Events(ctx context.Context, after uint64, follow bool, each func(uint64, fabric.Event) error) error
	// Status is how the host is, as it reports it.
	Status() fabric.HostStatus
	// Ready says what is missing before the host does its work; nil when nothing is.
	Ready(ctx context.Context) error
	// Confirm goes on with what the host holds for a person's word, and says in a sentence what that was;
	// fabric.ErrNotFound when it holds nothing.
	Confirm(ctx context.Context) (string, error)
}

// Hypervisor is what manages this host's guests.
type Hypervisor interface {
	// Call takes what a hook tells, and returns when the hypervisor may go on.
	Call(ctx context.Context, c api.HypervisorCall) error
	// Integrate gives libvirt what it needs, or takes it away.
	Integrate(ctx context.Context, r api.IntegrateRequest) (api.Integration, error)
}

// Reports takes hosts' words about themselves; the server has checked that each speaks of itself.
type Reports interface {
	ReportHost(ctx context.Context, h *fabric.Host) error
	ReportStatus(ctx context.Context, host fabric.HostID, s fabric.HostStatus) error
	ReportLocation(ctx context.Context, r api.LocationReport) (fabric.Location, error)
	ReportMove(ctx context.Context, r api.MoveReport) (*fabric.Move, error)
}

// Options wire a server. A nil part makes its operations answer that this host does not do that.
type Options struct {
	Self    fabric.HostID
	Version string
	// Socket is the path of the unix socket; Group, "weft" when empty, may use it besides root.
	Socket, Group string
	// Listen is the address of the mTLS API; none when empty. TLS asks for and verifies certificates of the fabric's CA.
	Listen string
	TLS    *tls.Config
	// PeerTLS is how this host calls others: for their ports' counters and their events. Without it they are not shown.
	PeerTLS *tls.Config
	// StateDir keeps what must outlive the agent; without it no change can be made to wait for a confirmation.
	StateDir string
	// Writes is true where the store may write: on a server host.
	Writes bool

	Objects  Objects
	Statuses Statuses
	Plugs    Plugs
	Mirrors  MirrorMeter
	Fleet    Fleet
	Moves    Moves
	Prober   Prober
	Lives    Lives
	Trials   Trials
	Host     Host
	Reports  Reports
	// Hypervisor is nil where guests are not managed by one that calls.
	Hypervisor Hypervisor
	// Metrics answers /metrics on the unix socket.
	Metrics http.Handler
	Logger  *slog.Logger
}

// Server answers the host API.
type Server struct {
	o    Options
	api  huma.API
	http http.Handler
	// stopping is closed when Run is about to end: streams do not end by themselves.
	stopping chan struct{}
	peers    *http.Client
	// confirmer undoes changes that nobody confirms; nil without a state directory.
	confirmer *confirmer
}

// New builds a server; Run makes it listen.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Group == "" {
		o.Group = "weft"
	}
	s := &Server{o: o, stopping: make(chan struct{})}
	s.peers = &http.Client{Transport: &http.Transport{
		TLSClientConfig: o.PeerTLS, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}, // events may be followed for days
	}}
	if o.StateDir != "" && o.Writes {
		s.confirmer = &confirmer{objects: o.Objects, log: o.Logger, path: filepath.Join(o.StateDir, "pending.json"), wake: make(chan struct{}, 1)}
	}
	mux := http.NewServeMux()
	s.api = humago.New(mux, config())
	s.api.UseMiddleware(s.authorize, s.trace)
	s.operations()
	s.plain(mux)
	finish(s.api.OpenAPI())
	s.http = s.recover(texts(mux))
	return s
}

// operations registers everything that is in the OpenAPI document.
func (s *Server) operations() {
	s.objectOperations()
	s.fleetOperations()
	s.hostOperations()
	s.traceOperations()
	s.stationOperations()
	s.liveOperations()
	s.streamOperations()
	s.reportOperations()
}

// Handler answers requests whose caller Run's listeners would have established; tests and the lab use it directly.
func (s *Server) Handler() http.Handler { return s.http }

// Run listens and answers until ctx ends, once; then it ends the streams and lets running requests finish for at most a second.
func (s *Server) Run(ctx context.Context) error {
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { close(s.stopping) })
	defer s.peers.CloseIdleConnections()
	if s.confirmer != nil {
		g.Go(func() error { return s.confirmer.run(ctx) })
	}
	for _, l := range listeners {
		srv := &http.Server{
			Handler: s.http, ConnContext: s.identify, ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
			ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		}
		g.Go(func() error {
			if err := srv.Serve(l); err != nil && ctx.Err() == nil {
				return fmt.Errorf("answer the API on %s: %w", l.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if srv.Shutdown(last) != nil {
				return srv.Close()
			}
			return nil
		})
	}
	return g.Wait()
}
