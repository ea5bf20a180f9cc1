package peer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// Authority is a certificate authority of one test.
type Authority struct {
	Certificate []byte // PEM

	parsed *x509.Certificate
	key    crypto.Signer
	newKey func() (crypto.Signer, error)
}

// NewAuthority makes a certificate authority. Its keys are RSA: QEMU 10.0.2 accepts no others for a server.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	return newAuthority(t, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
}

func newAuthority(t testing.TB, newKey func() (crypto.Signer, error)) *Authority {
	t.Helper()
	key, err := newKey()
	must.OK(t, err)
	a := &Authority{key: key, newKey: newKey}
	template := template("authority of a test")
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	a.parsed = template // it signs itself
	a.Certificate = a.sign(t, template, key.Public())
	block, _ := pem.Decode(a.Certificate)
	a.parsed, err = x509.ParseCertificate(block.Bytes)
	must.OK(t, err)
	return a
}

// template is valid from a day ago to a day from now, so that clocks may differ.
func template(name string) *x509.Certificate {
	const valid = 24 * time.Hour
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-valid), NotAfter: time.Now().Add(valid),
	}
}

// sign returns the certificate, PEM.
func (a *Authority) sign(t testing.TB, template *x509.Certificate, public any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.parsed, public, a.key)
	must.OK(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Issue makes a certificate for a server or a client with these names and addresses, and its key, both PEM.
func (a *Authority) Issue(t testing.TB, usage x509.ExtKeyUsage, names ...string) (certificate, key []byte) {
	t.Helper()
	own, err := a.newKey()
	must.OK(t, err)
	template := template(names[0])
	template.ExtKeyUsage, template.KeyUsage = []x509.ExtKeyUsage{usage}, x509.KeyUsageDigitalSignature
	if _, ok := own.(*rsa.PrivateKey); ok {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(own)
	must.OK(t, err)
	return a.sign(t, template, own.Public()), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// ClientDir makes a certificate directory for QEMU as a client (docs/system/tls): the certificate of the
// authority that it trusts, and the client's own, from issuer.
func (a *Authority) ClientDir(t testing.TB, issuer *Authority) string {
	t.Helper()
	certificate, key := issuer.Issue(t, x509.ExtKeyUsageClientAuth, "vm1")
	return directory(t, map[string][]byte{"ca-cert.pem": a.Certificate, "client-cert.pem": certificate, "client-key.pem": key})
}

// ECDSAClientDir is ClientDir with ECDSA keys, whose certificates do not allow key encipherment.
func ECDSAClientDir(t testing.TB) string {
	t.Helper()
	a := newAuthority(t, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	return a.ClientDir(t, a)
}

// EncryptedClientDir is ClientDir with the key encrypted (PKCS #8, RFC 5958).
func (a *Authority) EncryptedClientDir(t testing.TB) (dir, passphrase string) {
	t.Helper()
	dir, passphrase = a.ClientDir(t, a), randomText("tls-")
	key, secret, plain := filepath.Join(dir, "client-key.pem"), filepath.Join(t.TempDir(), "passphrase"), filepath.Join(t.TempDir(), "key")
	must.OK(t, errors.Join(os.WriteFile(secret, []byte(passphrase), 0o600), os.Rename(key, plain)))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := Output(ctx, "openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", plain, "-out", key, "-passout", "file:"+secret)
	must.OK(t, err)
	return dir, passphrase
}

// And returns the authority with the certificate of other added to its own, for peers that trust both.
func (a *Authority) And(other *Authority) *Authority {
	both := *a
	both.Certificate = slices.Concat(a.Certificate, other.Certificate)
	return &both
}

// directory makes a directory with these files.
func directory(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	return dir
}

func writeFiles(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		must.OK(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}

// randomText returns a secret that a search in logs does not find by chance: the prefix and 16 bytes in
// hexadecimal.
func randomText(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return prefix + hex.EncodeToString(b[:])
}
