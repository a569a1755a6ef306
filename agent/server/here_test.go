package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
)

// errEtcdAway is the error of the store when etcd does not answer.
var errEtcdAway = fmt.Errorf("read the records from /weft/v1/: etcd at https://10.0.0.1:2379, https://10.0.0.2:2379 did not answer: check that a majority of its members runs: %w",
	errors.Join(store.ErrUnavailable, context.DeadlineExceeded))

func TestWithoutEtcdTheHostsThemselvesSayHowTheyAre(t *testing.T) {
	c, all := pairOfHosts(t)
	for host, m := range all {
		m.change(func(s *fabric.Snapshot) {
			m.fail = errEtcdAway
			m.here = fabric.HostStatus{Generation: 7, Ready: true, Ports: []fabric.PortStatus{{Name: fabric.PortID("on-" + host), State: fabric.PortActive}}}
			for _, h := range []fabric.HostID{"h1", "h2", "h3"} {
				port := fabric.PortID("on-" + h)
				s.Ports[port] = &fabric.Port{Metadata: fabric.Metadata{Name: string(port)}}
				s.Locations[port] = fabric.Location{Port: port, Host: h, Epoch: 1}
			}
		})
	}
	st, err := c.Status(t.Context())
	if err != nil || st.Healthy {
		t.Fatalf("%+v, %v", st, err)
	}
	if p := st.Problems[0]; p.Object != "etcd" || !strings.Contains(p.Message, "what host h1 knew last") || p.Next == "" {
		t.Errorf("first problem %+v", p)
	}
	for i, want := range []fabric.Revision{7, 7, 0} { // h3 answers nobody
		if h := st.Hosts[i]; h.Status.Generation != want || h.Status.Ready != (want != 0) {
			t.Errorf("host %s: %+v", h.Metadata.Name, h.Status)
		}
	}
	list, err := c.List(t.Context(), fabric.KindPort)
	if err != nil || len(list.Items) != 3 || !strings.Contains(list.Stale, "etcd does not answer") {
		t.Fatalf("%+v, %v", list, err)
	}
	for i, want := range []fabric.PortState{fabric.PortActive, fabric.PortActive, fabric.PortUnknown} {
		if p := list.Items[i].(*fabric.Port); p.Status.State != want {
			t.Errorf("port %s is %s, want %s", p.Metadata.Name, p.Status.State, want)
		}
	}
}

func TestAnErrorOfEtcdIsOneShortLine(t *testing.T) {
	m := newMemory()
	m.change(func(*fabric.Snapshot) { m.fail = errEtcdAway })
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	_, err := c.Apply(t.Context(), []fabric.Object{aSwitch("blue")}, false)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeUnavailable {
		t.Fatal(err)
	}
	if e.Message != "read the records from /weft/v1/: etcd did not answer: check that a majority of its members runs" || e.Next == "" {
		t.Errorf("%q, next %q", e.Message, e.Next)
	}
}

func TestAPortThatIsPluggedInIsNotDeletedByMistake(t *testing.T) {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		for _, name := range []string{"held", "free"} {
			s.Ports[fabric.PortID(name)] = &fabric.Port{Metadata: fabric.Metadata{Name: name}}
		}
		s.Locations["held"] = fabric.Location{Port: "held", Host: "h2", Epoch: 3}
		s.Locations["free"] = fabric.Location{Port: "free", Epoch: 3}
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := c.Delete(ctx, fabric.KindPort, "held")
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeConflict || !strings.Contains(e.Message, "plugged in on host h2") || !strings.Contains(e.Next, "--force") {
		t.Errorf("a port in use: %v", err)
	}
	if _, err = c.Delete(ctx, fabric.KindPort, "free"); err != nil {
		t.Errorf("a port that nobody holds: %v", err)
	}
	if _, err := c.DeletePlugged(ctx, "held"); err != nil {
		t.Errorf("by force: %v", err)
	}
	if snap, _, _, _ := m.now(); len(snap.Ports) != 0 {
		t.Errorf("left are %v", snap.Ports)
	}
	_, err = c.Delete(ctx, fabric.KindGroup, strings.Repeat("x", 300))
	if !errors.Is(err, fabric.ErrNotFound) || len(err.Error()) > 200 {
		t.Errorf("a name that cannot be: %v", err)
	}
}
