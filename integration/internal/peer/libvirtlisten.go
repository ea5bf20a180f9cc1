package peer

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// ListeningLibvirt is a private libvirtd that listens on TCP, with and without TLS.
type ListeningLibvirt struct {
	*Libvirt
	Authority *Authority // of its certificate and those of its clients
	TCP, TLS  int        // ports of 127.0.0.1
}

// ListeningLibvirtd is Libvirtd for clients on the network. Its certificate is valid for 127.0.0.1, not for
// localhost; it requires a client certificate.
func ListeningLibvirtd(t testing.TB) *ListeningLibvirt {
	t.Helper()
	needRoot(t, "a private libvirtd")
	l := &ListeningLibvirt{Authority: NewAuthority(t)}
	certificate, key := l.Authority.Issue(t, x509.ExtKeyUsageServerAuth, "127.0.0.1")
	dir := directory(t, map[string][]byte{"ca.pem": l.Authority.Certificate, "cert.pem": certificate, "key.pem": key})
	for _, port := range []*int{&l.TCP, &l.TLS} {
		var err error
		*port, err = freePort()
		must.OK(t, err)
	}
	text := func(name, value string) string { return name + " = " + strconv.Quote(value) }
	l.Libvirt = LibvirtdWith(t, LibvirtOptions{Listen: true, Config: []string{
		"listen_tcp = 1", "listen_tls = 1", text("listen_addr", "127.0.0.1"), text("auth_tcp", "none"),
		text("tcp_port", strconv.Itoa(l.TCP)), text("tls_port", strconv.Itoa(l.TLS)),
		text("ca_file", filepath.Join(dir, "ca.pem")), text("cert_file", filepath.Join(dir, "cert.pem")), text("key_file", filepath.Join(dir, "key.pem")),
	}})
	return l
}

// LibvirtClient makes a directory of certificates for libvirt as a client: that of the authority that it
// trusts, and the client's own, from issuer, unless that is nil.
func (a *Authority) LibvirtClient(t testing.TB, issuer *Authority) string {
	t.Helper()
	files := map[string][]byte{"cacert.pem": a.Certificate}
	if issuer != nil {
		files["clientcert.pem"], files["clientkey.pem"] = issuer.Issue(t, x509.ExtKeyUsageClientAuth, "client")
	}
	return directory(t, files)
}

// Session is the libvirtd of an unprivileged user.
type Session struct {
	*Libvirt
	UID     int
	Runtime string // the user's XDG_RUNTIME_DIR
}

// StartSession starts the libvirtd of an unprivileged user on the host of l. It ends with l.
func (l *Libvirt) StartSession(t testing.TB) *Session {
	t.Helper()
	const uid = 65534 // nobody
	dir := shortDir(t, "session")
	s := &Session{UID: uid, Runtime: filepath.Join(dir, "run")}
	s.Libvirt = &Libvirt{Dir: dir, Socket: filepath.Join(s.Runtime, "libvirt", "libvirt-sock"), Log: filepath.Join(dir, "libvirtd.log"), root: l.root}
	s.URI = "qemu+unix:///session?socket=" + s.Socket
	// The last ones get the session's user as owner before StartDomain fills them as the tests' user.
	for _, path := range []string{dir, s.Runtime, filepath.Join(dir, "home"), filepath.Join(dir, "domains"), filepath.Join(dir, "domains", "luksplug-test")} {
		must.OK(t, os.MkdirAll(path, 0o700))
		must.OK(t, os.Chown(path, uid, uid))
	}
	cmd := l.Inside(context.Background(), "setpriv", "--reuid="+strconv.Itoa(uid), "--regid="+strconv.Itoa(uid), "--clear-groups", "--reset-env",
		"env", "XDG_RUNTIME_DIR="+s.Runtime, "HOME="+filepath.Join(dir, "home"), "/usr/sbin/libvirtd")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	s.process, err = startTied(cmd, s.Log)
	must.OK(t, err)
	atEnd(t, s.Close, s.Log)
	if err := s.waitReady(ctx); err != nil {
		t.Fatalf("start a session's libvirtd: %v: %s", err, tail(s.Log, 2000))
	}
	return s
}

// Command returns a command that runs as the session's user, with the session's environment.
func (s *Session) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	id := fmt.Sprint(s.UID)
	cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid=" + id, "--regid=" + id, "--clear-groups", "--", name}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + s.Runtime, "HOME=" + filepath.Join(s.Dir, "home")}
	return cmd
}
