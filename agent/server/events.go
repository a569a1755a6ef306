package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

const (
	// eventsWithin is how long a host may keep its events back until it is called silent.
	eventsWithin = 3 * time.Second
	// eventsAgain is how often a silent host is asked again, and new hosts are looked for, while events are followed.
	eventsAgain = 2 * time.Second
	// eventsLate is how long news waits for older news of other hosts.
	eventsLate = 150 * time.Millisecond
)

// eventsHere streams what happened on this host.
func (s *Server) eventsHere(_ context.Context, in *struct {
	After  uint64 `query:"after" doc:"Leave out events up to this number"`
	Follow bool   `query:"follow" doc:"Go on with what happens from now on"`
}) (*huma.StreamResponse, error) {
	if s.o.Host == nil {
		return nil, absent("keep events")
	}
	return s.streamed(func(ctx context.Context, l *lines) error {
		return s.recount(ctx, in.After, in.Follow, func(e api.HostEvent) error { return l.write(e) })
	}), nil
}

// recount tells this host's events.
func (s *Server) recount(ctx context.Context, after uint64, follow bool, each func(api.HostEvent) error) error {
	one := func(seq uint64, e fabric.Event) error {
		after = seq
		return each(api.HostEvent{Seq: seq, Event: &e})
	}
	if err := s.o.Host.Events(ctx, after, false, one); err != nil {
		return err
	}
	if err := each(api.HostEvent{CaughtUp: true}); err != nil || !follow {
		return err
	}
	return s.o.Host.Events(ctx, after, true, one)
}

// events streams what happened on all hosts, or on some.
func (s *Server) events(ctx context.Context, in *struct {
	Follow bool     `query:"follow" doc:"Go on with what happens from now on"`
	Host   []string `query:"host,explode" doc:"Only these hosts"`
}) (*huma.StreamResponse, error) {
	if s.o.Host == nil {
		return nil, absent("keep events")
	}
	hosts := s.hosts(ctx)
	for _, name := range in.Host {
		if hosts[fabric.HostID(name)] == nil {
			return nil, missing(api.Resource{Singular: "host", Plural: "hosts"}, name)
		}
	}
	return s.streamed(func(ctx context.Context, l *lines) error {
		c := &chorus{server: s, only: in.Host, follow: in.Follow, heard: map[fabric.HostID]bool{}, news: make(chan fabric.Event)}
		return c.sing(ctx, func(e fabric.Event) error { return l.write(e) })
	}), nil
}

// hosts are all hosts this one knows of, itself at least.
func (s *Server) hosts(ctx context.Context) map[fabric.HostID]*fabric.Host {
	if s.o.Objects != nil {
		ctx, cancel := context.WithTimeout(ctx, eventsWithin)
		defer cancel()
		if snap, err := s.known(ctx); err == nil && snap.Hosts[s.o.Self] != nil {
			return snap.Hosts
		}
	}
	return map[fabric.HostID]*fabric.Host{s.o.Self: {Metadata: fabric.Metadata{Name: string(s.o.Self)}}}
}

// chorus is the events of several hosts.
type chorus struct {
	server *Server
	only   []string
	follow bool
	heard  map[fabric.HostID]bool
	// pasts are what hosts have to say until they have caught up; then each is closed.
	pasts []chan fabric.Event
	// news is what happens from then on, on any host.
	news chan fabric.Event
	all  sync.WaitGroup
}

// sing tells the events of all hosts in the order of time until it is done, or for as long as it lasts.
func (c *chorus) sing(ctx context.Context, tell func(fabric.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.all.Wait()
	defer cancel()
	c.join(ctx, func() chan fabric.Event {
		past := make(chan fabric.Event, 64)
		c.pasts = append(c.pasts, past)
		return past
	})
	if err := c.history(ctx, tell); err != nil || !c.follow {
		return err
	}
	return c.live(ctx, tell)
}

// join begins to listen to the hosts that are not heard yet; the past of each goes where it says.
func (c *chorus) join(ctx context.Context, past func() chan fabric.Event) {
	hosts := c.server.hosts(ctx)
	for _, id := range slices.Sorted(maps.Keys(hosts)) {
		if c.heard[id] || len(c.only) > 0 && !slices.Contains(c.only, string(id)) {
			continue
		}
		c.heard[id] = true
		to := past()
		c.all.Go(func() { c.listen(ctx, hosts[id], to) })
	}
}

// listen hears one host, again and again when its events are followed. What it says until it has caught up goes to past.
func (c *chorus) listen(ctx context.Context, host *fabric.Host, to chan fabric.Event) {
	var after uint64
	silent := false
	caughtUp := func() {
		if to != c.news {
			close(to)
			to = c.news
		}
	}
	defer caughtUp()
	send := func(e fabric.Event) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case to <- e:
			return nil
		}
	}
	hear := func(e api.HostEvent) error {
		if silent = false; e.CaughtUp {
			caughtUp()
			return nil
		}
		after = e.Seq
		return send(*e.Event)
	}
	for ctx.Err() == nil {
		err := c.server.eventsOf(ctx, host, after, c.follow, hear)
		if err != nil && ctx.Err() == nil && !silent {
			silent = true
			_ = send(quiet(host, err)) // it fails only when the stream has ended
		}
		if caughtUp(); !c.follow {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(eventsAgain):
		}
	}
}

// quiet says that a host's events are missing.
func quiet(host *fabric.Host, err error) fabric.Event {
	return fabric.Event{
		Time: time.Now(), Host: fabric.HostID(host.Metadata.Name), Type: api.HostSilent, Object: "host/" + host.Metadata.Name,
		Message: fmt.Sprintf("host %s does not answer, so its events are missing: %v", host.Metadata.Name, err),
	}
}

// history tells the past of all hosts in the order of time.
func (c *chorus) history(ctx context.Context, tell func(fabric.Event) error) error {
	heads := make([]*fabric.Event, len(c.pasts))
	for {
		first := -1
		for i, past := range c.pasts {
			if heads[i] == nil {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case e, more := <-past:
					if !more {
						continue
					}
					heads[i] = &e
				}
			}
			if first < 0 || heads[i].Time.Before(heads[first].Time) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if err := tell(*heads[first]); err != nil {
			return err
		}
		heads[first] = nil
	}
}

// live tells what happens, each time a little later, so that what hosts say at once is told in order.
func (c *chorus) live(ctx context.Context, tell func(fabric.Event) error) error {
	again := time.NewTicker(eventsAgain)
	defer again.Stop()
	var waiting []fabric.Event
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
			c.join(ctx, func() chan fabric.Event { return c.news })
		case e := <-c.news:
			if waiting = append(waiting, e); due == nil {
				due = time.After(eventsLate)
			}
		case <-due:
			slices.SortStableFunc(waiting, func(a, b fabric.Event) int { return a.Time.Compare(b.Time) })
			for _, e := range waiting {
				if err := tell(e); err != nil {
					return err
				}
			}
			waiting, due = nil, nil
		}
	}
}

// eventsOf hears one host's events until it has told all, or for as long as it lasts when they are followed.
func (s *Server) eventsOf(ctx context.Context, host *fabric.Host, after uint64, follow bool, each func(api.HostEvent) error) error {
	if fabric.HostID(host.Metadata.Name) == s.o.Self {
		return s.recount(ctx, after, follow, each)
	}
	if s.o.PeerTLS == nil {
		return absent("call other hosts")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(eventsWithin, func() { cancel(fmt.Errorf("nothing came for %s", eventsWithin)) })
	defer stalled.Stop()
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "follow": {strconv.FormatBool(follow)}}
	resp, err := s.callPeer(ctx, host, api.EventsHere().Path+"?"+q.Encode())
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(make([]byte, 4<<10), api.MaxBody)
	for caughtUp := false; in.Scan(); {
		stalled.Stop() // who listens may take its time
		var e api.HostEvent
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("its answer is not a list of events: %w", err)
		}
		if e.Event != nil || e.CaughtUp { // a later release may say more
			if err := each(e); err != nil {
				return err
			}
		}
		if caughtUp = caughtUp || e.CaughtUp; !caughtUp { // from then on silence means that nothing happens
			stalled.Reset(eventsWithin)
		}
	}
	if err := in.Err(); err != nil || !follow {
		return because(ctx, err)
	}
	return errors.New("its agent has stopped")
}

// because is why a call failed: what ended its context tells more than that it ended.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// callPeer asks another host's API; the caller closes the body of a good answer.
func (s *Server) callPeer(ctx context.Context, host *fabric.Host, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host.Spec.API+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.peers.Do(req)
	var op *url.Error
	if errors.As(err, &op) {
		return nil, op.Err
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("host %s answered %s", host.Metadata.Name, resp.Status)
	}
	return resp, nil
}
