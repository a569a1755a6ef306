package identity

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// EtcdFilesIn names the files of a certificate for etcd in dir, beside those of FilesIn: ca.crt, etcd.crt and etcd.key. In
// a host's directory it is a reader's or writer's, in the CA's it is root's.
func EtcdFilesIn(dir string) Files {
	return Files{CA: filepath.Join(dir, caCertFile), Cert: filepath.Join(dir, "etcd.crt"), Key: filepath.Join(dir, "etcd.key")}
}

// IssueEtcd makes a certificate that etcd takes for the user's, valid like that of a Request. It has no role, so that the
// host API gives it nothing, and it is for clients only, so that nobody can pose as a host or as a member of etcd with it.
func (c *CA) IssueEtcd(user fabric.EtcdUser, now time.Time, life time.Duration) (Certificate, error) {
	if !slices.Contains(fabric.EtcdUsers(), user) {
		return Certificate{}, fmt.Errorf("etcd has no user %q in a fabric; there are %v: %w", user, fabric.EtcdUsers(), fabric.ErrInvalid)
	}
	return c.issue(Request{Name: string(user), Now: now, Life: life}, x509.ExtKeyUsageClientAuth)
}
