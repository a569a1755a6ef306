// Package identity gives every host and operator of a fabric a certificate of the fabric's own CA, and turns it into the
// TLS configurations the rest uses: TLS 1.3 only, both sides always authenticated. The CA is ECDSA P-256 from the standard
// library; a certificate names its holder in the common name and what it may do in the organizational units.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Role is what a certificate's holder may do; it is an organizational unit of the certificate.
type Role string

// The roles of a fabric.
const (
	// RoleHost reports about itself: its status, the ports it holds, the moves it was granted.
	RoleHost Role = "host"
	// RoleServer runs an etcd member and writes to etcd for the other hosts.
	RoleServer Role = "server"
	// RoleOperator changes the fabric.
	RoleOperator Role = "operator"
)

// ErrCertificate is the identity of every error about a certificate that cannot be used: missing, unreadable, exposed, of
// another CA, expired or not yet valid.
var ErrCertificate = errors.New("certificate cannot be used")

// Files are the three files an identity is loaded from, in PEM.
type Files struct {
	CA   string
	Cert string
	Key  string
}

// FilesIn names the files Save writes for a holder into dir: ca.crt, tls.crt and tls.key.
func FilesIn(dir string) Files {
	return Files{
		CA:   filepath.Join(dir, caCertFile),
		Cert: filepath.Join(dir, "tls.crt"),
		Key:  filepath.Join(dir, "tls.key"),
	}
}

// Identity is a loaded certificate with its CA.
type Identity struct {
	// Name is the holder: a host's name, or an operator's.
	Name string
	// Roles are what the holder may do.
	Roles []Role
	// NotBefore and NotAfter are when the certificate begins and ends.
	NotBefore, NotAfter time.Time

	file string // of the certificate
	cert tls.Certificate
	pool *x509.CertPool
}

// Load reads an identity and checks that the key is readable by its owner only, belongs to the certificate, and that the
// certificate is of this CA and valid at the time now. Every error is ErrCertificate and says which file and what to do.
func Load(files Files, now time.Time) (*Identity, error) {
	caPEM, err := read(files.CA, false)
	if err != nil {
		return nil, err
	}
	certPEM, err := read(files.Cert, false)
	if err != nil {
		return nil, err
	}
	keyPEM, err := read(files.Key, true)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("%s holds no PEM certificate: copy the fabric's ca.crt there: %w", files.CA, ErrCertificate)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key (%v): issue the pair again: %w",
			files.Cert, files.Key, err, ErrCertificate)
	}
	if err := verify(files, pair.Leaf, pool, now); err != nil {
		return nil, err
	}
	holder := holderOf(pair.Leaf)
	return &Identity{
		Name: holder.Name, Roles: holder.Roles, NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter,
		file: files.Cert, cert: pair, pool: pool,
	}, nil
}

// Waning is nil while more than a third of the certificate's life is left, and then an ErrCertificate that says when it
// ends and, after a semicolon, what to do.
func (i *Identity) Waning(now time.Time) error {
	left := i.NotAfter.Sub(now)
	if left > i.NotAfter.Sub(i.NotBefore)/3 {
		return nil
	}
	ends := fmt.Sprintf("ends at %s, in less than %d days", stamp(i.NotAfter), left/(24*time.Hour)+1)
	if left <= 0 {
		ends = "has ended at " + stamp(i.NotAfter)
	}
	return &waning{fmt.Sprintf("certificate %s of %s %s; issue it again with its CA, put it in the old one's place, and restart the agent", i.file, i.Name, ends)}
}

// waning is an ErrCertificate whose text ends with what to do.
type waning struct{ text string }

func (w *waning) Error() string { return w.text }
func (w *waning) Unwrap() error { return ErrCertificate }

// Server is the configuration of a listener: TLS 1.3, and every client must show a certificate of this fabric.
func (i *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    i.pool,
	}
}

// Client is the configuration of a dialer: TLS 1.3, the server must show a certificate of this fabric that names the
// address or host dialled.
func (i *Identity) Client() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.cert},
		RootCAs:      i.pool,
	}
}

// Holder is who a certificate speaks for.
type Holder struct {
	Name  string
	Roles []Role
}

// Has reports whether the holder may act in the role.
func (h Holder) Has(role Role) bool { return slices.Contains(h.Roles, role) }

// Peer is who is at the other end of a connection made with Server or Client; ErrCertificate when nobody was authenticated.
func Peer(state *tls.ConnectionState) (Holder, error) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return Holder{}, fmt.Errorf("the connection carries no verified certificate: connect with one of this fabric: %w", ErrCertificate)
	}
	return holderOf(state.VerifiedChains[0][0]), nil
}

// Explain adds to a failed handshake what to do about it: a certificate outside its time names the skew between the
// clocks. Other errors are returned as they are.
func Explain(err error, now time.Time) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		return fmt.Errorf("certificate of %s %s: %w", invalid.Cert.Subject.CommonName, outsideTime(invalid.Cert, now), errors.Join(ErrCertificate, err))
	}
	var authority x509.UnknownAuthorityError
	if errors.As(err, &authority) {
		return fmt.Errorf("the other side's certificate is of another fabric's CA: compare both hosts' ca.crt: %w", errors.Join(ErrCertificate, err))
	}
	// crypto/tls reports an alert of the other side as an operation of this name.
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		return fmt.Errorf("the other side refused our certificate: compare both hosts' ca.crt and clocks: %w", errors.Join(ErrCertificate, err))
	}
	return err
}

func holderOf(cert *x509.Certificate) Holder {
	h := Holder{Name: cert.Subject.CommonName}
	for _, unit := range cert.Subject.OrganizationalUnit {
		h.Roles = append(h.Roles, Role(unit))
	}
	return h
}

// verify checks time first, because a wrong clock is the most frequent cause and x509 would name it last.
func verify(files Files, leaf *x509.Certificate, pool *x509.CertPool, now time.Time) error {
	if text := outsideTime(leaf, now); text != "" {
		return fmt.Errorf("certificate %s of %s %s: %w", files.Cert, leaf.Subject.CommonName, text, ErrCertificate)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("certificate %s is not of the CA in %s (%v): issue it again with this fabric's CA: %w",
			files.Cert, files.CA, err, ErrCertificate)
	}
	if leaf.Subject.CommonName == "" {
		return fmt.Errorf("certificate %s names nobody in its common name: issue it again: %w", files.Cert, ErrCertificate)
	}
	return nil
}

// outsideTime says how far now is outside the certificate's validity; empty when it is inside.
func outsideTime(cert *x509.Certificate, now time.Time) string {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Sprintf("is not valid before %s, in %s: set this host's clock, which says %s",
			stamp(cert.NotBefore), round(cert.NotBefore.Sub(now)), stamp(now))
	case now.After(cert.NotAfter):
		return fmt.Sprintf("ended at %s, %s ago: issue it again, or set this host's clock, which says %s",
			stamp(cert.NotAfter), round(now.Sub(cert.NotAfter)), stamp(now))
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func round(d time.Duration) time.Duration { return d.Round(time.Second) }

// read reads a file; a secret one must be closed to group and others.
func read(path string, secret bool) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: copy this host's certificate files there, or issue them: %w", path, errors.Join(ErrCertificate, err))
	}
	if err != nil {
		return nil, fmt.Errorf("look at certificate file: %w", errors.Join(ErrCertificate, err))
	}
	if mode := info.Mode().Perm(); secret && mode&0o077 != 0 {
		return nil, fmt.Errorf("key %s has mode %04o, others can read it: chmod 600 %s: %w", path, mode, path, ErrCertificate)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s has mode %04o and cannot be read by this user: run as its owner: %w", path, info.Mode().Perm(), errors.Join(ErrCertificate, err))
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate file: %w", errors.Join(ErrCertificate, err))
	}
	return b, nil
}

// checkHolder checks the name and the roles a certificate is asked for.
func checkHolder(name string, roles []Role) error {
	if err := fabric.CheckName(name); err != nil {
		return fmt.Errorf("holder of a certificate: %w", err)
	}
	if slices.Contains(fabric.EtcdUsers(), fabric.EtcdUser(name)) {
		return fmt.Errorf("holder of a certificate: %q is a user of etcd: choose another name: %w", name, fabric.ErrInvalid)
	}
	for _, r := range roles {
		if r != RoleHost && r != RoleServer && r != RoleOperator {
			return fmt.Errorf("role %q of %s is unknown; known are %s, %s, %s: %w", r, name, RoleHost, RoleServer, RoleOperator, fabric.ErrInvalid)
		}
	}
	if len(roles) == 0 {
		return fmt.Errorf("certificate of %s has no role: give it at least one of %s, %s, %s: %w", name, RoleHost, RoleServer, RoleOperator, fabric.ErrInvalid)
	}
	return nil
}
