package kmiptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// Authority signs certificates. Its files are in the test's temporary directory.
type Authority struct {
	File string // its own certificate, in PEM

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair names the files of a certificate and its key.
type Pair struct{ Certificate, Key string }

// NewAuthority creates an authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{dir: t.TempDir()}
	a.key = newKey(t)
	template := a.template(t, "luksplug's test authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der := must.Get(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))(t)
	a.cert = must.Get(x509.ParseCertificate(der))(t)
	a.File = a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

// Client creates a client certificate.
func (a *Authority) Client(t testing.TB, name string) Pair {
	t.Helper()
	template := a.template(t, name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(t, name, template)
}

// Server creates a server certificate for the loopback addresses and for
// localhost.
func (a *Authority) Server(t testing.TB) Pair {
	t.Helper()
	template := a.template(t, "server")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.DNSNames = []string{"localhost"}
	return a.sign(t, "server", template)
}

func (a *Authority) template(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	const bits = 100
	serial := must.Get(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), bits)))(t)
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func (a *Authority) sign(t testing.TB, name string, template *x509.Certificate) Pair {
	t.Helper()
	key := newKey(t)
	der := must.Get(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))(t)
	private := must.Get(x509.MarshalPKCS8PrivateKey(key))(t)
	return Pair{a.write(t, name+".crt", "CERTIFICATE", der), a.write(t, name+".key", "PRIVATE KEY", private)}
}

func (a *Authority) write(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	must.OK(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return key
}

func (p Pair) load(t testing.TB) tls.Certificate {
	t.Helper()
	pair := must.Get(tls.LoadX509KeyPair(p.Certificate, p.Key))(t)
	return pair
}
