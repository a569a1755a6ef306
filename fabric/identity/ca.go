package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
	// caLife is the CA's validity; a host's certificate ends with it at the latest.
	caLife = 10 * 365 * 24 * time.Hour
	// defaultLife is a certificate's validity when the request names none.
	defaultLife = 90 * 24 * time.Hour
	// backdate lets a certificate be used at once on hosts whose clock is behind.
	backdate = 5 * time.Minute
)

// CA is a fabric's certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority for the named fabric, valid for ten years from now.
func NewCA(name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of CA %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name, Organization: []string{"weft"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	return &CA{cert: cert, key: key}, nil
}

// OpenCA reads the authority that Save wrote into dir; errors are ErrCertificate.
func OpenCA(dir string) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile)
	certPEM, err := read(certPath, false)
	if err != nil {
		return nil, err
	}
	keyPEM, err := read(keyPath, true)
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s is not a certificate (%v): restore it from a backup: %w", certPath, err, ErrCertificate)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s is not a P-256 key (%v): restore it from a backup: %w", keyPath, err, ErrCertificate)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s: restore both from one backup: %w", keyPath, certPath, ErrCertificate)
	}
	return &CA{cert: cert, key: key}, nil
}

// Save writes ca.crt and ca.key with mode 0600 into dir, which it makes, and closes to others (0700).
func (c *CA) Save(dir string) error {
	keyPEM, err := keyToPEM(c.key)
	if err != nil {
		return err
	}
	return save(dir, map[string][]byte{caCertFile: c.PEM(), caKeyFile: keyPEM})
}

// PEM is the CA certificate, which everybody in the fabric holds.
func (c *CA) PEM() []byte { return certToPEM(c.cert) }

// Request asks for a certificate.
type Request struct {
	// Name is the holder and the common name: a host's name or an operator's. It is also a DNS name of the certificate.
	Name string
	// Roles are what the holder may do, at least one.
	Roles []Role
	// Addresses the holder may be dialled at; a host gives its VTEP address.
	Addresses []netip.Addr
	// Now is the time of issue; the certificate is valid from five minutes before, for Life (90 days when 0).
	Now  time.Time
	Life time.Duration
}

// Certificate is an issued certificate with its key and CA, in PEM.
type Certificate struct {
	CA, Cert, Key []byte
}

// Issue makes a key and a certificate for both ends of a connection. A request that breaks a rule is fabric.ErrInvalid.
func (c *CA) Issue(r Request) (Certificate, error) {
	if err := checkHolder(r.Name, r.Roles); err != nil {
		return Certificate{}, err
	}
	return c.issue(r, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
}

// issue makes the certificate of a request that was checked.
func (c *CA) issue(r Request, usage ...x509.ExtKeyUsage) (Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, fmt.Errorf("make the key of %s: %w", r.Name, err)
	}
	template, err := c.template(r, usage)
	if err != nil {
		return Certificate{}, err
	}
	cert, err := sign(template, c.cert, key, c.key)
	if err != nil {
		return Certificate{}, fmt.Errorf("issue the certificate of %s: %w", r.Name, err)
	}
	keyPEM, err := keyToPEM(key)
	if err != nil {
		return Certificate{}, err
	}
	return Certificate{CA: c.PEM(), Cert: certToPEM(cert), Key: keyPEM}, nil
}

// Save writes the files FilesIn(dir) names with mode 0600 into dir, which it makes, and closes to others (0700).
func (c Certificate) Save(dir string) error { return c.SaveAs(FilesIn(dir)) }

// SaveAs is Save under other names, all in one directory.
func (c Certificate) SaveAs(files Files) error {
	return save(filepath.Dir(files.Key), map[string][]byte{
		filepath.Base(files.CA): c.CA, filepath.Base(files.Cert): c.Cert, filepath.Base(files.Key): c.Key,
	})
}

func (c *CA) template(r Request, usage []x509.ExtKeyUsage) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if r.Life == 0 {
		r.Life = defaultLife
	}
	end := r.Now.Add(r.Life)
	if end.After(c.cert.NotAfter) {
		end = c.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: r.Name, Organization: []string{"weft"}},
		DNSNames:              []string{r.Name},
		NotBefore:             r.Now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
	}
	for _, role := range r.Roles {
		template.Subject.OrganizationalUnit = append(template.Subject.OrganizationalUnit, string(role))
	}
	for _, a := range r.Addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	return template, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial is 128 random bits, as the CA/Browser Forum asks for at least 64.
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}

func certToPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func keyToPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no PEM block CERTIFICATE")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("no PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T", key)
	}
	return ec, nil
}

// save writes files with mode 0600 into a directory of mode 0700; each file is complete or absent.
func save(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("close certificate directory to others: %w", err)
	}
	for name, content := range files {
		if err := replace(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

func replace(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // CreateTemp makes 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
