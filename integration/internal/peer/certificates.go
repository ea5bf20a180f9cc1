package peer

import (
	"bytes"
	"context"
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
)

// Authority is a certificate authority of a test's own.
type Authority struct {
	Certificate []byte // PEM

	parsed *x509.Certificate
	key    *rsa.PrivateKey
}

// certificateTime is when the certificates begin to be good: before the clock of
// any machine that they are made on.
const certificateTime = 24 * time.Hour

// NewAuthority makes a certificate authority. Its keys are RSA: QEMU 10.0.2 takes
// no others for a server.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-certificateTime), NotAfter: time.Now().Add(certificateTime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.Certificate, a.parsed = sign(t, template, template, a.key, a.key)
	return a
}

// Issue makes a certificate for a server, or a client, of these names and
// addresses, and its key, both PEM.
func (a *Authority) Issue(t testing.TB, usage x509.ExtKeyUsage, names ...string) (certificate, key []byte) {
	t.Helper()
	own := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-certificateTime), NotAfter: time.Now().Add(certificateTime),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	certificate, _ = sign(t, template, a.parsed, own, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// ClientFolder makes a folder of certificates as QEMU wants it of a client
// (docs/system/tls): that of the authority which it trusts, and its own, from
// another one where issuer is one.
func (a *Authority) ClientFolder(t testing.TB, issuer *Authority) string {
	t.Helper()
	certificate, key := issuer.Issue(t, x509.ExtKeyUsageClientAuth, "vm1")
	return folder(t, map[string][]byte{"ca-cert.pem": a.Certificate, "client-cert.pem": certificate, "client-key.pem": key})
}

// ECDSAClientFolder is a ClientFolder whose certificates have ECDSA keys, and so
// a usage without key encipherment.
func ECDSAClientFolder(t testing.TB) string {
	t.Helper()
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-certificateTime), NotAfter: time.Now().Add(certificateTime)}
	}
	authority, client := template("authority of a test"), template("vm1")
	authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign
	client.KeyUsage, client.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{}
	for name, c := range map[string]struct {
		certificate *x509.Certificate
		key         *ecdsa.PrivateKey
	}{"ca-cert.pem": {authority, keys[0]}, "client-cert.pem": {client, keys[1]}} {
		der, err := x509.CreateCertificate(rand.Reader, c.certificate, authority, &c.key.PublicKey, keys[0])
		if err != nil {
			t.Fatal(err)
		}
		files[name] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	der, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	files["client-key.pem"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return folder(t, files)
}

// EncryptedClientFolder is ClientFolder with the key encrypted (PKCS #8, RFC 5958).
func (a *Authority) EncryptedClientFolder(t testing.TB) (dir, passphrase string) {
	t.Helper()
	dir, passphrase = a.ClientFolder(t, a), randomText("tls-")
	key, secret, plain := filepath.Join(dir, "client-key.pem"), filepath.Join(t.TempDir(), "passphrase"), filepath.Join(t.TempDir(), "key")
	if err := errors.Join(os.WriteFile(secret, []byte(passphrase), 0o600), os.Rename(key, plain)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := output(ctx, "openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", plain, "-out", key, "-passout", "file:"+secret); err != nil {
		t.Fatal(err)
	}
	return dir, passphrase
}

// And is the authority for those who trust another one as well.
func (a *Authority) And(other *Authority) *Authority {
	both := *a
	both.Certificate = slices.Concat(a.Certificate, other.Certificate)
	return &both
}

// folder makes a folder of files.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, own, key *rsa.PrivateKey) ([]byte, *x509.Certificate) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // into memory
	return out.Bytes(), parsed
}

// randomText is a secret that is nowhere by chance.
func randomText(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return prefix + hex.EncodeToString(b[:])
}
