package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// caller is who asks.
type caller struct {
	// name is a user's or a host's.
	name  string
	roles []identity.Role
}

// allowed says which role may do what. A host may look, probe and speak about itself, never change the fabric.
var allowed = map[identity.Role][]api.Access{
	identity.RoleOperator: {api.Read, api.Write, api.Local, api.Probe},
	identity.RoleServer:   {api.Read, api.Report, api.Probe},
	identity.RoleHost:     {api.Read, api.Report, api.Probe},
}

// may reports whether one of the caller's roles has the access.
func (c caller) may(need api.Access) bool {
	for _, r := range c.roles {
		if slices.Contains(allowed[r], need) {
			return true
		}
	}
	return false
}

// localCaller is the role of a local user: root, the user the agent runs as, and members of the group are operators.
func (s *Server) localCaller(cred *unix.Ucred) caller {
	name := "uid " + strconv.Itoa(int(cred.Uid))
	u, err := user.LookupId(strconv.Itoa(int(cred.Uid)))
	if err == nil {
		name = u.Username
	}
	if cred.Uid == 0 || int(cred.Uid) == os.Geteuid() || s.inGroup(u, cred.Gid) {
		return caller{name: name, roles: []identity.Role{identity.RoleOperator}}
	}
	return caller{name: name}
}

// inGroup reports whether the user, or the group the process runs as, is the API's.
func (s *Server) inGroup(u *user.User, gid uint32) bool {
	g, err := user.LookupGroup(s.o.Group)
	if err != nil {
		return false
	}
	if g.Gid == strconv.Itoa(int(gid)) {
		return true
	}
	if u == nil {
		return false
	}
	ids, err := u.GroupIds()
	return err == nil && slices.Contains(ids, g.Gid)
}

// callerOf is who sent a request; nobody when the connection did not say.
func callerOf(r *http.Request) caller {
	if c, ok := r.Context().Value(callerKey{}).(caller); ok {
		return c
	}
	h, err := identity.Peer(r.TLS)
	if err != nil {
		return caller{}
	}
	return caller{name: h.Name, roles: h.Roles}
}

// authorize lets a request through when its caller may do what the operation needs.
func (s *Server) authorize(ctx huma.Context, next func(huma.Context)) {
	r, _ := unwrap(ctx)
	c := callerOf(r)
	need := api.AccessOf(ctx.Operation())
	if !c.may(need) {
		s.fail(ctx, forbidden(c, ctx.Operation(), need))
		return
	}
	next(huma.WithValue(ctx, callerKey{}, c))
}

// forbidden says who may do what instead.
func forbidden(c caller, op *huma.Operation, need api.Access) *api.Error {
	e := &api.Error{Code: api.CodeForbidden}
	who := c.name
	if who == "" {
		who = "the caller"
	}
	e.Message = fmt.Sprintf("%s (%s) may not %s: it needs %s access", who, roleNames(c.roles), op.OperationID, need)
	switch {
	case len(c.roles) == 0:
		e.Next = "run it as root or as a member of the group weft"
	case need == api.Report:
		e.Next = "nothing to do: only agents report"
	default:
		e.Next = "use an operator's certificate, or the unix socket of a server host"
	}
	return e
}

func roleNames(roles []identity.Role) string {
	if len(roles) == 0 {
		return "without a role"
	}
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return "as " + strings.Join(names, ", ")
}

// self checks that a host speaks only about itself: the name in its certificate is the host it names.
func (s *Server) self(ctx context.Context, about fabric.HostID) error {
	c, _ := ctx.Value(callerKey{}).(caller)
	if fabric.HostID(c.name) == about {
		return nil
	}
	return &api.Error{
		Code: api.CodeForbidden, Object: "host/" + string(about),
		Message: fmt.Sprintf("host %s reports about host %s: a host may speak only about itself", c.name, about),
		Next:    "see that tls.cert of the agent is the one made for this host",
	}
}
