package peer

import (
	"crypto/x509"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
)

// NBDServer is a qemu-nbd on TCP with the export "disk".
type NBDServer struct {
	*Server
}

// SourceXML returns the <source> of the export, with further attributes. inner follows its <host>.
func (s *NBDServer) SourceXML(attributes, inner string) string {
	return fmt.Sprintf("<source protocol='nbd' name='disk' %s>%s%s</source>", attributes, s.HostXML(), inner)
}

// StartNBD serves a raw image over NBD without TLS.
func StartNBD(t testing.TB, file string) *NBDServer {
	t.Helper()
	return startNBD(t, file)
}

// StartNBDX509 serves a raw image over NBD with TLS to clients with a certificate of the authority. The
// server's certificate is valid for names only: the address of [Server] must be among them.
func StartNBDX509(t testing.TB, file string, a *Authority, names ...string) *NBDServer {
	t.Helper()
	certificate, key := a.Issue(t, x509.ExtKeyUsageServerAuth, names...)
	dir := directory(t, map[string][]byte{"ca-cert.pem": a.Certificate, "server-cert.pem": certificate, "server-key.pem": key})
	return startNBD(t, file, "--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir="+escapeComma(dir), "--tls-creds", "tls")
}

// StartNBDPSK serves a raw image over NBD with TLS to clients with one user's key.
func StartNBDPSK(t testing.TB, file string, key PSK) *NBDServer {
	t.Helper()
	return startNBD(t, file, "--object", "tls-creds-psk,id=tls,endpoint=server,dir="+escapeComma(key.Dir(t)), "--tls-creds", "tls")
}

func startNBD(t testing.TB, file string, args ...string) *NBDServer {
	t.Helper()
	return &NBDServer{startServer(t, "qemu-nbd", func(_ string, port int) *exec.Cmd {
		// Several clients: a storage daemon may still be connected when QEMU connects.
		common := []string{"--format", "raw", "--persistent", "--shared", "4", "--export-name", "disk", "--bind", "127.0.0.1", "--port", strconv.Itoa(port)}
		return exec.Command("qemu-nbd", append(append(common, args...), file)...)
	})}
}

// PSK is a pre-shared key for TLS.
type PSK struct {
	User string
	Key  string // hexadecimal
}

// NewPSK makes a pre-shared key.
func NewPSK(user string) PSK {
	return PSK{User: user, Key: randomText("")}
}

// Dir makes a directory with the key, for QEMU as a server or a client (docs/system/tls).
func (k PSK) Dir(t testing.TB) string {
	t.Helper()
	return directory(t, map[string][]byte{"keys.psk": []byte(k.User + ":" + k.Key + "\n")})
}
