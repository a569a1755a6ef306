package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// pairOfHosts serves h1 on a socket and h2 over mutual TLS, which know each other, and a host h3 that nobody serves.
func pairOfHosts(t *testing.T) (*client.Client, map[fabric.HostID]*memory) {
	t.Helper()
	now := time.Now()
	ca, err := identity.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	all := map[fabric.HostID]*memory{"h1": newMemory(), "h2": newMemory()}
	for _, m := range all {
		m.change(func(s *fabric.Snapshot) {
			for host, at := range map[fabric.HostID]string{"h1": "", "h2": address, "h3": "127.0.0.1:1"} {
				s.Hosts[host] = &fabric.Host{Metadata: fabric.Metadata{Name: string(host)}, Spec: fabric.HostSpec{API: at}}
			}
		})
	}
	h1, h2 := issued(t, ca, "h1", identity.RoleServer, now), issued(t, ca, "h2", identity.RoleHost, now)
	serve(t, all["h2"], func(o *server.Options) { o.Self, o.Listen, o.TLS = "h2", address, h2.Server() })
	o := serve(t, all["h1"], func(o *server.Options) { o.PeerTLS = h1.Client() })
	peer := dial(t, client.Options{Address: address, TLS: h1.Client()})
	await(t, "host h2", func() bool { return second(peer.Version(t.Context())) == nil })
	return dial(t, client.Options{Socket: o.Socket}), all
}

// happen adds an event to a host, so many milliseconds after midnight.
func (m *memory) happen(host fabric.HostID, ms int) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	m.change(func(*fabric.Snapshot) {
		m.events = append(slices.Clone(m.events), fabric.Event{Time: at, Host: host, Type: "test", Message: fmt.Sprintf("%s %d", host, ms)})
	})
}

func TestEventsOfAllHostsAreToldInTheOrderOfTime(t *testing.T) {
	c, all := pairOfHosts(t)
	all["h1"].happen("h1", 1)
	all["h2"].happen("h2", 2)
	all["h1"].happen("h1", 3)
	all["h2"].happen("h2", 4)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	hear := func(follow bool, hosts ...fabric.HostID) (told, silent []string) {
		t.Helper()
		enough := errors.New("enough")
		err := c.Events(ctx, hosts, follow, func(e fabric.Event) error {
			if e.Type == api.HostSilent {
				silent = append(silent, string(e.Host))
				return nil
			}
			if told = append(told, e.Message); follow && len(told) == 4 {
				all["h2"].happen("h2", 6) // said first, happened last
				all["h1"].happen("h1", 5)
			}
			if len(told) == 6 {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			t.Errorf("hear %v: %v", hosts, err)
		}
		return told, silent
	}
	want := []string{"h1 1", "h2 2", "h1 3", "h2 4"}
	if told, silent := hear(false); !slices.Equal(told, want) || !slices.Equal(silent, []string{"h3"}) {
		t.Errorf("told %q, silent %q", told, silent)
	}
	if told, silent := hear(false, "h2"); !slices.Equal(told, []string{"h2 2", "h2 4"}) || silent != nil {
		t.Errorf("of h2: told %q, silent %q", told, silent)
	}
	if told, silent := hear(true); !slices.Equal(told, append(want, "h1 5", "h2 6")) || !slices.Equal(silent, []string{"h3"}) {
		t.Errorf("followed: told %q, silent %q", told, silent)
	}
	err := c.Events(ctx, []fabric.HostID{"h9"}, false, func(fabric.Event) error { return nil })
	if !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("events of a host that is not: %v", err)
	}
}

func TestAHostThatComesLaterIsHeardToo(t *testing.T) {
	c, all := pairOfHosts(t)
	h2 := all["h1"].snap.Hosts["h2"]
	all["h1"].change(func(s *fabric.Snapshot) { delete(s.Hosts, "h2"); delete(s.Hosts, "h3") })
	all["h1"].happen("h1", 1)
	all["h2"].happen("h2", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var told []string
	enough := errors.New("enough")
	err := c.Events(ctx, nil, true, func(e fabric.Event) error {
		told = append(told, e.Message)
		if len(told) == 2 {
			return enough
		}
		all["h1"].change(func(s *fabric.Snapshot) { s.Hosts["h2"] = h2 })
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(told, []string{"h1 1", "h2 2"}) {
		t.Errorf("told %q, %v", told, err)
	}
}
