package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// TestMain sees to it that a server that has ended leaves no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server with everything in memory, on a unix socket and on mTLS, until the test ends.
func serve(tb testing.TB, m *memory, change func(*server.Options)) server.Options {
	tb.Helper()
	dir, err := os.MkdirTemp("", "weft-api") // a socket's path is short: TempDir's may not be
	if err != nil {
		tb.Fatal(err)
	}
	o := server.Options{
		Self: "h1", Version: "v1", Socket: filepath.Join(dir, "agent.sock"), Writes: true, Objects: m, Statuses: m, Plugs: m, Fleet: m, Prober: m, Host: m, Reports: m,
	}
	if change != nil {
		change(&o)
	}
	tb.Cleanup(start(tb, o))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return o
}

// start runs a server until stop is called.
func start(tb testing.TB, o server.Options) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.New(o).Run(ctx) }()
	await(tb, "the socket", func() bool {
		c, err := net.Dial("unix", o.Socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the server ended with %v", err)
		}
	}
}

// await waits until a condition holds.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s did not come within 10 s", what)
		}
	}
}

func dial(tb testing.TB, o client.Options) *client.Client {
	tb.Helper()
	c, err := client.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// raw sends any request to the socket and returns status, headers and error.
func raw(tb testing.TB, socket, method, path, contentType, body string) (*http.Response, api.Error) {
	tb.Helper()
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequest(method, "http://weft"+path, io.MultiReader(strings.NewReader(body))) // MultiReader hides the length: chunked
	if err != nil {
		tb.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := hc.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	var e api.Error
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 && json.Unmarshal(b, &e) != nil {
		tb.Errorf("%s %s answered %d with %q, which is not the error shape", method, path, resp.StatusCode, b)
	}
	return resp, e
}

func TestWhatNoOperationTakesIsToldInOneShape(t *testing.T) {
	o := serve(t, newMemory(), nil)
	large := `{"objects":["` + strings.Repeat("x", api.MaxBody) + `"]}`
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		message, next                         string
	}{
		{"a path that does not exist", "GET", "/v1/bridges", "", "", 404, "the API has no /v1/bridges", "see /openapi.json for what there is"},
		{"a method the path does not take", "PUT", "/v1/switches", "application/json", "{}", 405, "/v1/switches does not take PUT; it takes GET, HEAD", "see /openapi.json"},
		{"YAML", "POST", "/v1/apply", "application/yaml", "kind: Switch", 415, "POST /v1/apply: the body is application/yaml, but the API reads application/json", "convert it, or give the YAML file to: weft apply -f FILE"},
		{"more than 8 MiB", "POST", "/v1/apply", "application/json", large, 413, "POST /v1/apply: the request is larger than the 8 MiB that the API reads", "split it into several requests"},
		{"torn JSON", "POST", "/v1/apply", "application/json", `{"objects":[`, 422, "the body is not what the operation takes: unexpected end of JSON input", "the fields of every request are in /openapi.json"},
		{"no body", "POST", "/v1/apply", "application/json", "", 400, "request body is required", "the fields of every request are in /openapi.json"},
		{"an unknown parameter", "GET", "/v1/switches?sort=name", "", "", 422, "query.sort: unknown query parameter", "the fields of every request are in /openapi.json"},
		{"an unknown field", "POST", "/v1/moves", "application/json", `{"vm":"a","to":"h2","speed":9}`, 422, "speed: unexpected property", "the fields of every request are in /openapi.json"},
		{"no objects", "POST", "/v1/apply", "application/json", `{"objects":[]}`, 422, "apply: there are no objects in the request", `send {"objects": [{"apiVersion": "weft/v1", "kind": "Switch", …}]}`},
		{"a host that a user makes up", "POST", "/v1/apply", "application/json", `{"objects":[{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"h9"},"spec":{"vtep":"10.0.0.9","underlayMTU":1500,"api":""}}]}`, 422, "object 1 of the request: host/h9: hosts are written by the hosts themselves", "apply switches, ports, profiles and groups"},
		{"an object that does not exist", "GET", "/v1/switches/blue", "", "", 404, `there is no switch "blue"`, "see what there is: weft get switches"},
		{"a switch in use", "DELETE", "/v1/switches/blue", "", "", 409, "delete Switch blue: ports a, b are plugged in", ""},
		{"a defect", "GET", "/v1/doctor", "", "", 500, "GET /v1/doctor met a defect of weft", "please report it with the agent's log: journalctl -u weft"},
		{"not ready", "GET", "/readyz", "", "", 503, "not ready: the first snapshot has not come", "weft doctor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, e := raw(t, o.Socket, c.method, c.path, c.contentType, c.body)
			if resp.StatusCode != c.status || e.Message != c.message || e.Next != c.next {
				t.Errorf("%d\n%q\n%q\nwant %d\n%q\n%q", resp.StatusCode, e.Message, e.Next, c.status, c.message, c.next)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
			if c.status == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", resp.Header.Get("Allow"))
			}
		})
	}
}

func TestErrorsKeepTheirIdentityAcrossTheConnection(t *testing.T) {
	m := newMemory()
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	ctx := t.Context()
	if _, err := c.Get(ctx, fabric.KindSwitch, "blue"); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	if _, err := c.Delete(ctx, fabric.KindSwitch, "blue"); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("delete in use: %v", err)
	}
	if _, err := c.ReportLocation(ctx, api.LocationReport{}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a user who reports as a host: %v", err)
	}
	if _, err := c.Move(ctx, api.MoveRequest{VM: "a", To: "h2"}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a part that is absent: %v", err)
	}
	if _, err := c.Apply(ctx, []fabric.Object{&fabric.Switch{}}, false); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("an object without a kind: %v", err)
	}
}

func TestApplyNotesTheCommandsTrace(t *testing.T) {
	m := newMemory()
	o := serve(t, m, nil)
	parent := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req := `{"objects":[{"apiVersion":"weft/v1","kind":"Switch","metadata":{"name":"blue"},"spec":{"type":"private"}}]}`
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", o.Socket)
	}}}
	hr, _ := http.NewRequest("POST", "http://weft/v1/apply", strings.NewReader(req))
	hr.Header.Set("Traceparent", parent)
	resp, err := hc.Do(hr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var res api.ApplyResult
	if err := json.NewDecoder(resp.Body).Decode(&res); err != nil {
		t.Fatal(err)
	}
	if res.TraceID != parent[3:35] || res.Revision != 7 || res.Items[0].Outcome != api.Created {
		t.Errorf("answer %+v", res)
	}
	if got := m.applied[0].Meta().Trace; !strings.HasPrefix(got, parent[:36]) {
		t.Errorf("the record's trace is %q, want the command's %q", got, parent)
	}
}

func TestAChangeThatNobodyConfirmsIsUndoneByTheNextAgent(t *testing.T) {
	m := newMemory()
	blue := func(mtu int, trace string) *fabric.Switch {
		return &fabric.Switch{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch},
			Metadata: fabric.Metadata{Name: "blue", Trace: trace}, Spec: fabric.SwitchSpec{Type: fabric.Private, MTU: mtu},
		}
	}
	m.change(func(s *fabric.Snapshot) { s.Switches["blue"] = blue(1400, "") })
	dir := t.TempDir()
	o := server.Options{Self: "h1", Socket: filepath.Join(dir, "s"), StateDir: dir, Writes: true, Objects: m}
	stop := start(t, o)
	c := dial(t, client.Options{Socket: o.Socket})
	parent, _ := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: parent, SpanID: trace.SpanID{1}, TraceFlags: 1}))
	res, err := c.ApplyForNow(ctx, []fabric.Object{blue(1300, "")}, 100*time.Millisecond)
	stop() // before the time is over or just after: one of the two agents undoes the change
	if err != nil || res.Pending == nil || res.Pending.Revision != res.Revision {
		t.Fatalf("%+v, %v", res, err)
	}
	defer start(t, o)()
	await(t, "the undoing", func() bool {
		snap, _, _, _ := m.now()
		return snap.Switches["blue"].Spec.MTU == 1400
	})
	if _, err := c.Confirm(ctx); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("confirm after the undoing: %v", err)
	}
}

func TestInForceWaitsForHostsThatReport(t *testing.T) {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		for _, h := range []fabric.HostID{"h1", "h2", "h3"} {
			s.Hosts[h] = &fabric.Host{Metadata: fabric.Metadata{Name: string(h)}}
		}
		m.statuses["h1"] = fabric.HostStatus{Generation: 9}
		m.statuses["h2"] = fabric.HostStatus{Generation: 4}
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	type answer struct {
		api.InForce
		err error
	}
	got := make(chan answer, 1)
	go func() {
		f, err := c.InForce(t.Context(), 5)
		got <- answer{f, err}
	}()
	select {
	case a := <-got:
		t.Fatalf("answered while h2 was at 4: %+v", a)
	case <-time.After(50 * time.Millisecond):
	}
	if now, err := c.Reached(t.Context(), 5); err != nil || now.Done || len(now.Hosts) != 3 || !now.Hosts[0].InForce || now.Hosts[1].InForce {
		t.Errorf("how far the hosts are now: %+v, %v", now, err)
	}
	m.change(func(*fabric.Snapshot) { m.statuses["h2"] = fabric.HostStatus{Generation: 5} })
	a := <-got
	if a.err != nil || !a.Done || len(a.Hosts) != 3 {
		t.Fatalf("%+v", a)
	}
	if away := a.Hosts[2]; away.Alive || away.InForce {
		t.Errorf("h3 reports nothing, but is said to be %+v", away)
	}
}

func TestWatchTellsObjectsThenChanges(t *testing.T) {
	m := newMemory()
	blue := &fabric.Switch{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "blue", Revision: 2}}
	m.change(func(s *fabric.Snapshot) { s.Switches["blue"] = blue })
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var said []string
	enough := errors.New("enough")
	err := c.Watch(ctx, []fabric.Kind{fabric.KindSwitch}, func(w api.WatchedChange) error {
		said = append(said, strings.TrimSuffix(string(w.Type)+" "+w.Name, " "))
		switch len(said) {
		case 2:
			m.change(func(s *fabric.Snapshot) { delete(s.Switches, "blue") })
		case 3:
			return enough
		}
		return nil
	})
	if want := "put blue, synced, delete blue"; !errors.Is(err, enough) || strings.Join(said, ", ") != want {
		t.Errorf("the watch said %q and ended with %v, want %q", said, err, want)
	}
}

func TestCallsArriveAsTheyWereMade(t *testing.T) {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		s.Ports["a"] = &fabric.Port{Metadata: fabric.Metadata{Name: "a"}}
		s.Locations["a"] = fabric.Location{Port: "a", Host: "h1", Epoch: 1}
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	if a, err := c.Attach(t.Context(), "a", api.Attachment{Device: "tap0", Kind: api.Tap}); err != nil || a.Status.Device != "tap0" || a.Port.Metadata.Name != "a" {
		t.Errorf("attach: %+v, %v", a, err)
	}
	if err := c.Arm(t.Context(), tracing.Session{ID: 1, Label: 1 << 63, TTL: time.Second}); err != nil {
		t.Errorf("arm: %v", err)
	}
	p, err := c.Trace(t.Context(), api.TraceRequest{Source: "a", Destination: "10.0.0.1", Protocol: "icmp"})
	if err != nil || p.Label != 1<<63 {
		t.Errorf("trace: label %d, %v", p.Label, err)
	}
}

func TestCountersAreFetchedFromTheHostThatHasThePort(t *testing.T) {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		s.Hosts["h1"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h1"}}
		s.Hosts["h2"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h2"}, Spec: fabric.HostSpec{API: "127.0.0.1:1"}} // does not answer
		for port, host := range map[fabric.PortID]fabric.HostID{"a": "h1", "b": "h2"} {
			s.Ports[port] = &fabric.Port{Metadata: fabric.Metadata{Name: string(port)}}
			s.Locations[port] = fabric.Location{Port: port, Host: host, Epoch: 1}
			m.statuses[host] = fabric.HostStatus{Ports: []fabric.PortStatus{{Name: port, State: fabric.PortActive}}}
		}
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	p, err := c.Port(t.Context(), "a")
	if err != nil || p.Status.RxPackets != 42 || p.Status.Drops["guard_src_ip"] != 3 || p.Status.State != fabric.PortActive {
		t.Errorf("port a: %+v, %v", p.Status, err)
	}
	list, err := c.Counted(t.Context())
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	a, b := list.Items[0].(*fabric.Port).Status, list.Items[1].(*fabric.Port).Status
	if a.RxPackets != 42 || b.State != fabric.PortActive || b.RxPackets != 0 {
		t.Errorf("a %+v, b %+v", a, b)
	}
	plain, err := c.Ports(t.Context())
	if err != nil || plain[0].Status.RxPackets != 0 {
		t.Errorf("nobody asked for counters, but they were fetched: %+v, %v", plain, err)
	}
}

func TestTheCommittedDocumentIsTheServedOne(t *testing.T) {
	want, err := server.Document()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/reference/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Error("docs/reference/openapi.json is not what the server serves; run: go generate ./agent/server")
	}
}

func TestAHostThatLivesIsNotDeleted(t *testing.T) {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		for _, id := range []fabric.HostID{"h1", "h2", "h3", "h4"} {
			s.Hosts[id] = &fabric.Host{Metadata: fabric.Metadata{Name: string(id)}}
		}
		s.Hosts["h4"].Spec.Server = true
		m.statuses["h3"] = fabric.HostStatus{}
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	for id, want := range map[string]string{
		"h2": "its agent lives", "h3": "its agent lives", "h4": "a server host",
		"h5": "", // the store answers
	} {
		if _, err := c.Delete(t.Context(), fabric.KindHost, id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
	m.change(func(s *fabric.Snapshot) { delete(m.statuses, "h3") })
	if _, err := c.Delete(t.Context(), fabric.KindHost, "h3"); err == nil || !strings.Contains(err.Error(), "ports a, b are plugged in") {
		t.Errorf("a silent host is for the store to judge: %v", err)
	}
}
