package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric/identity"
)

// bodies are an example of what each operation with a body takes.
var bodies = []struct{ path, body string }{
	{"/v1/apply", `{"objects":[{"apiVersion":"weft/v1","kind":"Switch","metadata":{"name":"blue"},"spec":{"type":"private","subnets":["10.0.0.0/24"]}}],"dryRun":false}`},
	{"/v1/apply", `{"objects":[null,{"kind":"Host"}],"confirmSeconds":1e300}`},
	{"/v1/ports/a/attach", `{"device":"tap-a","kind":"tap","qmp":"/a.qmp"}`},
	{"/v1/ports/a/detach", `{}`},
	{"/v1/moves", `{"vm":"a","to":"h2","relaySeconds":1.5}`},
	{"/v1/trace", `{"source":"a","destination":"10.0.0.2","protocol":"tcp","port":443}`},
	{"/v1/report/register", `{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"h1"},"spec":{"vtep":"10.240.0.1","underlayMTU":1500,"api":"10.240.0.1:7443"}}`},
	{"/v1/report/status", `{"host":"h1","status":{"generation":4,"ready":true,"ports":[{"name":"a","drops":{"x":1}}]}}`},
	{"/v1/report/location", `{"host":"h1","act":"claim","port":"a","epoch":3}`},
	{"/v1/report/move", `{"host":"h1","move":"m1","status":{"phase":"staged","at":{"staged":"2026-01-31T12:00:00Z"}},"revision":9}`},
	{"/v1/probes/arm", `{"id":7,"label":"9223372036854775808"}`},
	{"/v1/probes/inject", `{"port":"a","frame":"AAAA"}`},
	{"/v1/probes/hops", `{"label":"1"}`},
	{"/v1/probes/disarm", `{"label":-1}`},
}

// FuzzBodies holds every operation that reads a body to: whatever comes, the answer is JSON, a refusal has the one shape of
// errors with a sentence and a code, no defect is met, and only valid objects reach the store.
func FuzzBodies(f *testing.F) {
	for i, b := range bodies {
		f.Add(byte(i), []byte(b.body))
	}
	m := newMemory()
	h := server.New(server.Options{Self: "h1", Version: "v1", Writes: true, Objects: m, Statuses: m, Plugs: m, Fleet: m, Prober: m, Host: m, Reports: m}).Handler()
	connection := asEverybody(f)
	f.Fuzz(func(t *testing.T, at byte, body []byte) {
		path := bodies[int(at)%len(bodies)].path
		m.snap, m.applied, m.reported = newMemory().snap, nil, nil
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(body)))
		r.TLS = connection
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var e api.Error
		switch err := json.Unmarshal(w.Body.Bytes(), &e); {
		case w.Code == http.StatusNoContent && w.Body.Len() == 0:
		case err != nil && w.Code != http.StatusOK:
			t.Fatalf("%s %q: %d %q is not JSON: %v", path, body, w.Code, w.Body, err)
		case w.Code >= 400 && (e.Message == "" || e.Code == "" || e.Code == api.CodeInternal):
			t.Fatalf("%s %q: %d %q", path, body, w.Code, w.Body)
		case !json.Valid(w.Body.Bytes()):
			t.Fatalf("%s %q: %d %q is not JSON", path, body, w.Code, w.Body)
		}
		for _, o := range m.applied {
			if err := o.Validate(); err != nil {
				t.Fatalf("%q reached the store: %v", body, err)
			}
		}
		for _, host := range m.reported {
			if host != "h1" {
				t.Fatalf("%q is h1's report about %s", body, host)
			}
		}
	})
}

// asEverybody is a connection of a caller who may do everything.
func asEverybody(tb testing.TB) *tls.ConnectionState {
	tb.Helper()
	now := time.Now()
	ca, err := identity.NewCA("test", now)
	if err != nil {
		tb.Fatal(err)
	}
	issued, err := ca.Issue(identity.Request{Name: "h1", Roles: []identity.Role{identity.RoleHost, identity.RoleOperator}, Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	if err := issued.Save(dir); err != nil {
		tb.Fatal(err)
	}
	id, err := identity.Load(identity.FilesIn(dir), now)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(id.Client().Certificates[0].Certificate[0])
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
}
