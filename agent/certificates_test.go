package agent

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric/identity"
)

func TestACertificateThatRunsOutIsAProblemInTime(t *testing.T) {
	h := newHouse(t)
	issued := time.Now().Add(-61 * 24 * time.Hour) // of 90 days
	ca, err := identity.NewCA("test", issued)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(identity.Request{Name: "h1", Roles: []identity.Role{identity.RoleServer}, Now: issued})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tls")
	if err := cert.Save(dir); err != nil {
		t.Fatal(err)
	}
	files := identity.FilesIn(dir)
	h.config.TLS = TLSFiles{CA: files.CA, Cert: files.Cert, Key: files.Key} // the one for etcd stays fresh
	n := h.start()
	var found []api.Problem
	n.until(t, "the problem", func() bool {
		s, err := n.Client.Status(t.Context())
		found = s.Problems
		return err == nil && slices.ContainsFunc(found, func(p api.Problem) bool {
			return strings.Contains(p.Message, "certificate "+files.Cert+" of h1 ends at") && strings.HasPrefix(p.Next, "issue it again")
		})
	})
	if slices.ContainsFunc(found, func(p api.Problem) bool { return strings.Contains(p.Message, "weft-writer") }) {
		t.Errorf("a fresh certificate is a problem: %+v", found)
	}
	d := &doctor{config: h.config}
	d.certificate()
	if len(d.findings) != 2 || d.findings[0].Severity != api.Warning || d.findings[0].Remedy == "" || d.findings[1].Severity != api.OK {
		t.Errorf("the doctor finds %+v", d.findings)
	}
}
