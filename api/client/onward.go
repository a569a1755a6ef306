package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"

	"github.com/weftnet/weft/api"
)

// sendOn sends a request to the hosts that the refusal names, one after the other until one answers, with the operator's
// certificate. Without one the refusal stands.
func (c *Client) sendOn(ctx context.Context, refusal *api.Error, method, path string, in any) (*http.Response, error) {
	conf, err := c.o.Operator()
	if err != nil {
		return nil, &api.Error{Code: api.CodeMisdirected, Servers: refusal.Servers, Message: fmt.Sprintf("%s, and the operator's certificate that would let you ask one cannot be used: %v", refusal.Message, err), Next: refusal.Next}
	}
	if conf == nil || len(refusal.Servers) == 0 {
		return nil, refusal
	}
	for _, address := range refusal.Servers {
		other, unusable := c.other(address, conf)
		if unusable != nil {
			return nil, unusable
		}
		var resp *http.Response
		resp, err = other.sendHere(ctx, method, path, in)
		if !errors.Is(err, api.ErrUnavailable) || ctx.Err() != nil {
			return resp, err
		}
	}
	return nil, fmt.Errorf("none of the server hosts %v carries it out: %w", refusal.Servers, err)
}

// other is the client of a server host.
func (c *Client) other(address string, conf *tls.Config) (*Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.others[address]; known != nil {
		return known, nil
	}
	other, err := New(Options{Address: address, TLS: conf, Dial: c.o.Dial})
	if err == nil {
		c.others[address] = other
	}
	return other, err
}
