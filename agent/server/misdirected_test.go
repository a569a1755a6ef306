package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// reader is a host that cannot write, beside a server host whose API listens at the address that all know.
func reader(t *testing.T) (m *memory, socket string, ca *identity.CA) {
	t.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	m = newMemory()
	m.change(func(s *fabric.Snapshot) {
		for name, spec := range map[string]fabric.HostSpec{
			"h1": {API: "127.0.0.1:9", Server: true}, // nobody answers there
			"h2": {API: address, Server: true},
			"h4": {API: "192.0.2.4:7443"},
		} {
			s.Hosts[fabric.HostID(name)] = &fabric.Host{Metadata: fabric.Metadata{Name: name}, Spec: spec}
		}
	})
	serve(t, m, func(o *server.Options) {
		o.Self, o.Listen, o.TLS = "h2", address, issued(t, ca, "h2", identity.RoleServer, time.Now()).Server()
	})
	o := serve(t, m, func(o *server.Options) { o.Self, o.Writes = "h4", false })
	return m, o.Socket, ca
}

func TestAHostThatCannotWriteNamesThoseThatCan(t *testing.T) {
	m, socket, _ := reader(t)
	c := dial(t, client.Options{Socket: socket})
	ctx := t.Context()
	for what, err := range map[string]error{
		"apply":        second(c.Apply(ctx, []fabric.Object{aSwitch("blue")}, false)),
		"delete":       second(c.Delete(ctx, fabric.KindSwitch, "blue")),
		"start a move": second(c.Move(ctx, api.MoveRequest{VM: "a", To: "h2"})),
		"abort a move": second(c.AbortMove(ctx, "m-1")),
		"confirm":      second(c.Confirm(ctx)),
	} {
		var e *api.Error
		if !errors.Is(err, api.ErrMisdirected) || !errors.As(err, &e) || len(e.Servers) != 2 || !strings.Contains(e.Next, "run it on h1, h2, or from here") ||
			!strings.Contains(e.Next, "weft --server 127.0.0.1:9 --cert DIR") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if m.applied != nil {
		t.Errorf("a host that cannot write has written %v", m.applied)
	}
	if _, err := c.Status(ctx); err != nil {
		t.Errorf("a host that cannot write does not answer: %v", err)
	}
}

func TestAChangeGoesOnToAServerHostByTheOperatorsRightAlone(t *testing.T) {
	m, socket, ca := reader(t)
	for name, c := range map[string]struct {
		role identity.Role
		want error
	}{
		"with an operator's certificate":         {identity.RoleOperator, nil},
		"with the certificate of a host":         {identity.RoleHost, api.ErrForbidden},
		"with the certificate of a server host":  {identity.RoleServer, api.ErrForbidden},
		"with a certificate that cannot be read": {"", api.ErrMisdirected},
		"without any that this user may use":     {"none", api.ErrMisdirected},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, client.Options{Socket: socket, Operator: func() (*tls.Config, error) {
				switch c.role {
				case "":
					return nil, errors.New("it has expired")
				case "none":
					return nil, nil
				}
				return issued(t, ca, "ann", c.role, time.Now()).Client(), nil
			}})
			m.mu.Lock()
			m.applied = nil
			m.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			res, err := client.Apply(ctx, []fabric.Object{aSwitch("blue")}, false)
			if !errors.Is(err, c.want) || c.want == nil && res.Revision != 7 {
				t.Errorf("revision %d, error %v", res.Revision, err)
			}
			if c.role == "" && !strings.Contains(err.Error(), "it has expired") {
				t.Errorf("the error does not say why the certificate was not used: %v", err)
			}
			if written := m.applied != nil; written != (c.want == nil) {
				t.Errorf("written: %v", m.applied)
			}
		})
	}
}

func aSwitch(name string) *fabric.Switch {
	return &fabric.Switch{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: name}, Spec: fabric.SwitchSpec{Type: fabric.Private}}
}
