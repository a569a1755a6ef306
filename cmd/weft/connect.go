package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/internal/lab"
)

// connect finds the agent to ask: the one that was named, else this machine's, else the running lab's. Once found, it is
// used for the whole command.
func (a *app) connect() (_ *client.Client, err error) {
	if a.agent == nil {
		a.agent, err = a.dial()
	}
	return a.agent, err
}

// patience is how long a command that only looks goes on trying while no agent answers.
const (
	patience   = 20 * time.Second
	retryPause = 500 * time.Millisecond
)

// patiently repeats a look while the agent does not answer, and asks another host of a lab where there is one: an agent that
// is killed or replaced does not end a command that only waits.
func (a *app) patiently(ctx context.Context, look func(*client.Client) error) error {
	deadline := time.Now().Add(patience)
	for {
		c, err := a.connect()
		if err != nil {
			return err
		}
		begun := time.Now()
		err = look(c)
		if time.Since(begun) > patience { // it has answered meanwhile
			deadline = time.Now().Add(patience)
		}
		if !errors.Is(err, api.ErrUnavailable) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		a.progress("The agent on %s does not answer; trying again.", c.Where())
		c.Close()
		a.agent = nil
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryPause):
		}
	}
}

func (a *app) dial() (*client.Client, error) {
	switch {
	case a.server != "":
		conf, err := a.certificate()
		if err != nil {
			return nil, err
		}
		server := a.server
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(strings.Trim(server, "[]"), apiPort)
		}
		return client.New(client.Options{Address: server, TLS: conf, Operator: a.operator})
	case a.socket != "":
		return client.New(client.Options{Socket: a.socket, Operator: a.operator})
	case a.lab == "" && a.host == "" && exists(api.Socket):
		return client.New(client.Options{Socket: api.Socket, Operator: a.operator})
	}
	l, err := a.openLab()
	if err != nil {
		return nil, err
	}
	a.inLab = true
	if a.host != "" {
		return l.Client(fabric.HostID(a.host))
	}
	hosts := lab.HostNames(l.Hosts)
	for _, h := range hosts {
		if c, err := l.Client(h); err == nil && answers(c) {
			return c, nil
		}
	}
	return l.Client(hosts[0]) // its error says what to do
}

// certificate reads the operator's certificate for --server.
func (a *app) certificate() (*tls.Config, error) {
	if a.cert == "" {
		return nil, &usageError{message: "--server needs a certificate of the fabric", next: "give its directory with --cert DIR, or use the unix socket on a server host"}
	}
	id, err := identity.Load(identity.FilesIn(a.cert), time.Now())
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), ": "+identity.ErrCertificate.Error())
		return nil, &statusError{status: exitError, cause: err, message: why, next: "give a directory with an operator's ca.crt, tls.crt and tls.key: --cert DIR"}
	}
	return id.Client(), nil
}

// apiPort is where agents answer unless --server says otherwise.
const apiPort = "7443"

// operatorDir is where an operator's certificate is unless --cert says otherwise.
const operatorDir = "/etc/weft/operator"

// operator reads the certificate with which a change goes on from a host that cannot write to a server host; nil when
// there is none that this user may read.
func (a *app) operator() (*tls.Config, error) {
	if a.cert != "" {
		return a.certificate()
	}
	id, err := identity.Load(identity.FilesIn(operatorDir), time.Now())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return id.Client(), nil
}

// onServer is the command that asks a server host what was asked of one that cannot do it.
func onServer(args []string, server string) string {
	line := []string{"weft", "--server", server, "--cert", "DIR"}
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		if name != "--host" && name != "--socket" && name != "--cert" {
			line = append(line, quoted(args[i]))
		} else if !joined {
			i++ // its value
		}
	}
	return strings.Join(line, " ")
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// openLab finds the lab: the named one, or the only one.
func (a *app) openLab() (*lab.Lab, error) {
	name := a.lab
	if name == "" {
		names, err := lab.List()
		if err != nil {
			return nil, err
		}
		switch len(names) {
		case 0:
			return nil, &api.Error{
				Code: api.CodeUnavailable, Message: fmt.Sprintf("there is no fabric here: no agent on %s, and no lab", api.Socket),
				Next: "start a lab: sudo weft lab up; or name an agent with --socket or --server",
			}
		case 1:
			name = names[0]
		default:
			return nil, &usageError{message: "several labs run here: " + strings.Join(names, ", "), next: "choose one with --lab NAME"}
		}
	}
	l, err := lab.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &statusError{status: exitNotFound, cause: err, message: fmt.Sprintf("there is no lab %q", name), next: "make it: sudo weft lab up --lab " + name}
	case errors.Is(err, fs.ErrPermission):
		return nil, &statusError{status: exitError, cause: err, message: fmt.Sprintf("lab %q belongs to root", name), next: "run it with sudo"}
	}
	return l, err
}

// onHost finds the steps that are taken on one host.
var onHost = regexp.MustCompile(`^on (h\d+) run: (systemctl status weft|weft .*)$`)

// here is a next step as it is taken in the lab, where this command line reaches every host.
func (a *app) here(next string) string {
	if !a.inLab {
		return next
	}
	if m := onHost.FindStringSubmatch(next); m != nil {
		if m[2] == "systemctl status weft" {
			return "sudo weft lab start " + m[1]
		}
		return strings.Replace(m[2], "weft ", "weft --host "+m[1]+" ", 1)
	}
	if next == client.NextLook || next == client.NextStart {
		return "start the lab's agents that do not run: sudo weft lab start"
	}
	return next
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// answers reports whether an agent is there and well enough to say so.
func answers(c *client.Client) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := c.Version(ctx)
	return err == nil
}
