package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/auth"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftnet/weft/fabric"
)

// settleAgain is the pause before it is looked again whether authorization is in force.
const settleAgain = 20 * time.Millisecond

// settle gives new data its users and turns authorization on, and then says that the member is ready. The leader does it;
// where two do, because the lead changes hands, every step may be done twice, and turning it on is the last of them.
func (s *Server) settle(ctx context.Context) {
	defer close(s.settled)
	etcd := s.etcd.Server
	select {
	case <-etcd.ReadyNotify():
	case <-ctx.Done():
		return
	}
	for !etcd.AuthStore().IsAuthEnabled() {
		if etcd.Leader() != etcd.MemberID() {
			pause(ctx, settleAgain)
		} else if err := introduce(ctx, etcd); err != nil {
			s.log.Debug("the users of etcd are not set up yet", "member", s.name, "error", err)
			pause(ctx, settleAgain)
		}
		if ctx.Err() != nil {
			return
		}
	}
	close(s.ready)
}

// introduce makes the users of a fabric and turns authorization on. It speaks to the member inside this process, which
// checks no certificate; the moment another member was faster, etcd refuses it.
func introduce(ctx context.Context, etcd *etcdserver.EtcdServer) error {
	for _, user := range fabric.EtcdUsers() {
		name := string(user)
		if err := known(etcd.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Options: &authpb.UserAddOptions{NoPassword: true}})); err != nil {
			return fmt.Errorf("add user %s: %w", name, err)
		}
		if err := known(etcd.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})); err != nil {
			return fmt.Errorf("add role %s: %w", name, err)
		}
		if may, limited := permissions[user]; limited {
			perm := &authpb.Permission{PermType: may, Key: []byte(fabric.EtcdPrefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(fabric.EtcdPrefix))}
			if _, err := etcd.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: name, Perm: perm}); err != nil {
				return fmt.Errorf("grant role %s %s: %w", name, fabric.EtcdPrefix, err)
			}
		}
		if _, err := etcd.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name}); err != nil {
			return fmt.Errorf("give user %s its role: %w", name, err)
		}
	}
	if _, err := etcd.AuthEnable(ctx, &pb.AuthEnableRequest{}); err != nil {
		return fmt.Errorf("turn authorization on: %w", err)
	}
	return nil
}

// permissions are what users may do below fabric.EtcdPrefix; root is not limited.
var permissions = map[fabric.EtcdUser]authpb.Permission_Type{
	fabric.EtcdReader: authpb.Permission_READ,
	fabric.EtcdWriter: authpb.Permission_READWRITE,
}

// known forgets that a user or role was there already.
func known[T any](_ T, err error) error {
	if errors.Is(err, auth.ErrUserAlreadyExist) || errors.Is(err, auth.ErrRoleAlreadyExist) {
		return nil
	}
	return err
}

// gate stands before every request of a client. etcd itself serves everybody until authorization is on, and lets any
// certificate of the CA make leases, list members and ask for the status; the gate does neither.
type gate struct {
	etcd atomic.Pointer[etcdserver.EtcdServer] // nil until the member has started
}

// options puts the gate before etcd's services.
func (g *gate) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := g.pass(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := g.pass(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}

// pass lets the three users in once authorization is on, and the reader to nothing that costs the cluster memory.
func (g *gate) pass(ctx context.Context, method string) error {
	etcd := g.etcd.Load()
	if etcd == nil || !etcd.AuthStore().IsAuthEnabled() {
		return status.Error(codes.Unavailable, "etcdserver: authorization is not in force yet")
	}
	who, err := etcd.AuthInfoFromCtx(ctx)
	if err != nil || who == nil {
		return rpctypes.ErrGRPCPermissionDenied
	}
	switch fabric.EtcdUser(who.Username) {
	case fabric.EtcdRoot, fabric.EtcdWriter:
		return nil
	case fabric.EtcdReader:
		if !strings.HasPrefix(method, "/etcdserverpb.Lease/") {
			return nil
		}
	}
	return rpctypes.ErrGRPCPermissionDenied
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
