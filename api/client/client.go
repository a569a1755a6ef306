// Package client calls the host API of an agent: over its unix socket on the same machine, or over mutual TLS from
// anywhere. Errors keep their identity: errors.Is(err, fabric.ErrNotFound) holds for what the server meant by it.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/weftnet/weft/api"
)

// Options say where the API is. Socket wins over Address.
type Options struct {
	// Socket is the path of an agent's unix socket.
	Socket string
	// Address is the host:port of an agent's mTLS API; TLS has the fabric's CA and the caller's certificate.
	Address string
	TLS     *tls.Config
	// Operator returns an operator's certificate, nil when there is none. A request that the agent cannot carry out, because
	// its host cannot write to etcd, then goes to a host that can, by the operator's own right. It may be nil.
	Operator func() (*tls.Config, error)
	// Dial makes TCP connections; the machine's own network is used when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client is a connection to one agent; it is safe for concurrent use.
type Client struct {
	base  string
	where string
	http  *http.Client
	o     Options

	mu sync.Mutex
	// others are the hosts that requests went on to, by address.
	others map[string]*Client
}

// New prepares a client; nothing is connected until the first call.
func New(o Options) (*Client, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 5 * time.Second}
	c := &Client{http: &http.Client{Transport: transport}, o: o, others: map[string]*Client{}}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	switch {
	case o.Socket != "":
		c.base, c.where = "http://weft", o.Socket
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.Socket)
		}
	case o.Address != "" && o.TLS != nil:
		c.base, c.where = "https://"+o.Address, o.Address
		transport.DialContext = dialer.DialContext
		if o.Dial != nil {
			transport.DialContext = o.Dial
		}
		transport.TLSClientConfig = o.TLS
		transport.ForceAttemptHTTP2 = true
	case o.Address != "":
		return nil, fmt.Errorf("reach the agent at %s: a certificate of the fabric is needed for anything but the unix socket", o.Address)
	default:
		return nil, errors.New("reach an agent: neither a socket nor an address was given")
	}
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.others {
		other.Close()
	}
	c.http.CloseIdleConnections()
}

// Where is the socket or address that is called.
func (c *Client) Where() string { return c.where }

// call sends in as JSON (nothing when nil) and reads the answer into out (nothing when nil).
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s to %s %s: %w", c.where, method, path, err)
	}
	return nil
}

// send returns a successful response, whose body the caller closes, or the server's error. What the agent cannot carry out
// goes on to a host that can.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	resp, err := c.sendHere(ctx, method, path, in)
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeMisdirected && c.o.Operator != nil {
		return c.sendOn(ctx, e, method, path, in)
	}
	return resp, err
}

// sendHere asks the agent of this client.
func (c *Client) sendHere(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write the request %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	limited, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(limited, method, c.base+path, body)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("write the request %s %s: %w", method, path, err)
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	patience := patience(method, path)
	mute := time.AfterFunc(patience, func() { cancel(errMute) })
	resp, err := c.http.Do(req)
	mute.Stop()
	if err != nil {
		defer cancel(nil)
		if ctx.Err() == nil && errors.Is(context.Cause(limited), errMute) {
			return nil, &api.Error{Code: api.CodeUnavailable, Next: NextLook, Message: fmt.Sprintf("the agent on %s does not answer for %s: it may be frozen, or have too much to do", c.where, patience)}
		}
		return nil, c.unreachable(ctx, err)
	}
	resp.Body = answer{resp.Body, cancel}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, c.failure(resp)
	}
	return resp, nil
}

// errMute: no answer has begun.
var errMute = errors.New("no answer")

// patience is how long an agent may take to begin its answer: short for a look, longer for work and for waiting.
func patience(method, path string) time.Duration {
	if method == http.MethodGet && !strings.HasPrefix(path, "/v1/inforce") && path != "/v1/doctor" {
		return 15 * time.Second
	}
	return 90 * time.Second
}

// answer is a body that lets go of its request's context when it is closed.
type answer struct {
	io.ReadCloser
	done context.CancelCauseFunc
}

func (a answer) Close() error {
	err := a.ReadCloser.Close()
	a.done(nil)
	return err
}

// failure reads the server's error.
func (c *Client) failure(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &api.Error{Status: resp.StatusCode}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%s answered %s, which is not the answer of a weft agent", c.where, resp.Status)
		e.Code = api.CodeInternal
	}
	return e
}

// unreachable says why no answer came, and what to do.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("wait for an answer of %s: %w", c.where, context.Cause(ctx))
	}
	e := &api.Error{Code: api.CodeUnavailable, Next: NextLook}
	why := ""
	var (
		op     *net.OpError
		lookup *net.DNSError
		theirs *tls.CertificateVerificationError
		alert  tls.AlertError
		call   *url.Error
	)
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Code, why, e.Next = api.CodeForbidden, "your user may not", "run it with sudo, or join the group weft: sudo usermod -aG weft $USER"
	case errors.Is(err, fs.ErrNotExist):
		why, e.Next = "there is no such socket", NextStart
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody listens"
	case errors.As(err, &theirs):
		e.Code, why, e.Next = api.CodeForbidden, fmt.Sprintf("what answers there has no certificate of your fabric (%v)", theirs.Err), nextCertificate
	case errors.As(err, &alert):
		e.Code, why, e.Next = api.CodeForbidden, fmt.Sprintf("it does not take your certificate (%v)", alert), nextCertificate
	case errors.As(err, &lookup):
		why, e.Next = fmt.Sprintf("the name %s cannot be looked up", lookup.Name), "give the host's address: HOST:PORT"
	case errors.As(err, &op) && op.Err != nil:
		why = op.Err.Error()
	case errors.As(err, &call):
		why = call.Err.Error()
	default:
		why = err.Error()
	}
	e.Message = fmt.Sprintf("reach the agent on %s: %s", c.where, why)
	return e
}

// The next steps when an agent does not answer.
const (
	NextLook  = "see that the agent runs there: systemctl status weft, or in a lab: weft lab status"
	NextStart = "start the agent: sudo systemctl start weft, or a lab: sudo weft lab up"

	nextCertificate = "use a certificate of that host's fabric: --cert DIR"
)
