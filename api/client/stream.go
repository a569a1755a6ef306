package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// maxLine is the longest line of a stream, in bytes.
const maxLine = api.MaxBody

// Watch calls each with every object of the kinds (all when none are given), then with every change, until ctx ends or
// each returns an error, which is returned.
func (c *Client) Watch(ctx context.Context, kinds []fabric.Kind, each func(api.WatchedChange) error) error {
	q := url.Values{}
	for _, k := range kinds {
		q.Add("kind", string(k))
	}
	if err := stream(ctx, c, "/v1/watch?"+q.Encode(), each); err != nil {
		return err
	}
	return c.ended("watch") // a watch has no end of its own
}

// Events calls each with the events of the hosts, all when none are given, oldest first; with follow it goes on until ctx
// ends. An event of type api.HostSilent says that its host does not answer.
func (c *Client) Events(ctx context.Context, hosts []fabric.HostID, follow bool, each func(fabric.Event) error) error {
	q := url.Values{"follow": {strconv.FormatBool(follow)}}
	for _, h := range hosts {
		q.Add("host", string(h))
	}
	if err := stream(ctx, c, "/v1/events?"+q.Encode(), each); err != nil || !follow {
		return err
	}
	return c.ended("events")
}

// ended is the error of a stream that the agent has ended, as it does when it stops.
func (c *Client) ended(what string) error {
	return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("the agent on %s has ended the %s: it stops, or was killed", c.where, what), Next: "run the command again, or ask another host: --host NAME"}
}

// stream reads lines of JSON.
func stream[T any](ctx context.Context, c *Client, path string, each func(T) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 { // a keep-alive
			continue
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return fmt.Errorf("read the stream %s of %s: %w", path, c.where, err)
		}
		if err := each(v); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if lines.Err() != nil {
		return c.ended("answer to " + path)
	}
	return nil
}
