package identity

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func TestACertificateForEtcdIsForEtcdOnly(t *testing.T) {
	ca := newCA(t)
	cert, err := ca.IssueEtcd(fabric.EtcdReader, issued, 0)
	if err != nil {
		t.Fatal(err)
	}
	files := EtcdFilesIn(t.TempDir())
	if err := cert.SaveAs(files); err != nil {
		t.Fatal(err)
	}
	reader := load(t, files)
	if reader.Name != "weft-reader" || len(reader.Roles) != 0 {
		t.Errorf("the certificate names %s with the roles %v, want weft-reader with none", reader.Name, reader.Roles)
	}
	host := load(t, newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost}, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}))
	if _, _, errs := handshake(t, host.Server(), reader.Client()); errs[0] != nil || errs[1] != nil {
		t.Errorf("a host does not take it for a client's: %v", errs)
	}
	_, err = reader.cert.Leaf.Verify(x509.VerifyOptions{Roots: reader.pool, CurrentTime: issued, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil || !strings.Contains(err.Error(), "incompatible key usage") {
		t.Errorf("it is good for a server, too: %v", err)
	}
}

func TestNobodyGetsTheNameOfAnEtcdUser(t *testing.T) {
	ca := newCA(t)
	for _, user := range fabric.EtcdUsers() {
		if _, err := ca.Issue(Request{Name: string(user), Roles: []Role{RoleHost}, Now: issued}); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("a host was given the name %s: %v", user, err)
		}
	}
	if _, err := ca.IssueEtcd("h1", issued, 0); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a user that etcd does not have was given a certificate: %v", err)
	}
}
