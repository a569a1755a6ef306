package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens the unix socket and the mTLS address.
func (s *Server) listen() (_ []net.Listener, err error) {
	var open []net.Listener
	defer func() {
		if err != nil {
			for _, l := range open {
				l.Close()
			}
		}
	}()
	if s.o.Socket != "" {
		l, err := s.listenUnix()
		if err != nil {
			return nil, err
		}
		open = append(open, l)
	}
	if s.o.Listen != "" {
		if s.o.TLS == nil || s.o.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
			return nil, fmt.Errorf("listen on %s: the API beyond the unix socket needs mutual TLS; set tls.ca, tls.cert and tls.key in agent.yaml", s.o.Listen)
		}
		conf := s.o.TLS.Clone()
		conf.MinVersion = tls.VersionTLS13
		conf.NextProtos = []string{"h2", "http/1.1"}
		l, err := net.Listen("tcp", s.o.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen on %s for the mTLS API: %w; is another agent running?", s.o.Listen, err)
		}
		open = append(open, tls.NewListener(l, conf))
	}
	return open, nil
}

// listenUnix replaces a socket that a killed agent left behind, but not one that answers.
func (s *Server) listenUnix() (net.Listener, error) {
	if c, err := net.Dial("unix", s.o.Socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another agent answers there; stop it first", s.o.Socket)
	}
	if err := os.Remove(s.o.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove the old socket: %w", s.o.Socket, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.o.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.o.Socket, err)
	}
	// The mode is right from the first moment: a umask is process-wide, so the socket is made under another name.
	draft := s.o.Socket + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove %s: %w", s.o.Socket, draft, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: draft, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.o.Socket, err)
	}
	l.SetUnlinkOnClose(false)
	if err := s.publish(draft); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", s.o.Socket, err)
	}
	return l, nil
}

// publish gives the socket its owner and mode, then its name.
func (s *Server) publish(draft string) error {
	gid := 0
	if g, err := user.LookupGroup(s.o.Group); err == nil {
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("group %s has the odd id %q", s.o.Group, g.Gid)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(draft, 0, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(draft, 0o660); err != nil {
		return err
	}
	return os.Rename(draft, s.o.Socket)
}

// callerKey is where the caller is in a connection's context.
type callerKey struct{}

// identify finds out who has connected, once per connection. A certificate is only known after the handshake, so for TLS
// the connection itself is kept and looked at when a request comes.
func (s *Server) identify(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	cred, err := peer(uc)
	if err != nil {
		s.o.Logger.Warn("cannot tell who has connected", "error", err)
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, s.localCaller(cred))
}

// peer reads the kernel's word about the other end of a unix socket (unix(7), SO_PEERCRED).
func peer(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctl := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(err, ctl)
}
