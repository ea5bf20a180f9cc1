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
)

// ListeningLibvirt is a private libvirtd that listens on TCP, in clear and with
// TLS.
type ListeningLibvirt struct {
	*Libvirt
	Authority *Authority // that it and its clients have certificates of
	TCP, TLS  int        // ports of 127.0.0.1
}

// ListeningLibvirtd is Libvirtd for clients of the network. Its certificate is for
// 127.0.0.1, not for localhost; it wants one of each client.
func ListeningLibvirtd(t testing.TB) *ListeningLibvirt {
	t.Helper()
	needRoot(t, "a private libvirtd")
	l := &ListeningLibvirt{Authority: NewAuthority(t)}
	certificate, key := l.Authority.Issue(t, x509.ExtKeyUsageServerAuth, "127.0.0.1")
	dir := folder(t, map[string][]byte{"ca.pem": l.Authority.Certificate, "cert.pem": certificate, "key.pem": key})
	for _, port := range []*int{&l.TCP, &l.TLS} {
		var err error
		*port, err = freePort()
		Must(t, err)
	}
	text := func(name, value string) string { return name + " = " + strconv.Quote(value) }
	l.Libvirt = LibvirtdWith(t, LibvirtOptions{Listen: true, Config: []string{
		"listen_tcp = 1", "listen_tls = 1", text("listen_addr", "127.0.0.1"), text("auth_tcp", "none"),
		text("tcp_port", strconv.Itoa(l.TCP)), text("tls_port", strconv.Itoa(l.TLS)),
		text("ca_file", filepath.Join(dir, "ca.pem")), text("cert_file", filepath.Join(dir, "cert.pem")), text("key_file", filepath.Join(dir, "key.pem")),
	}})
	return l
}

// LibvirtClient makes a folder of certificates as libvirt wants it of a client: that
// of the authority which it trusts, and its own, from issuer; none of its own
// without.
func (a *Authority) LibvirtClient(t testing.TB, issuer *Authority) string {
	t.Helper()
	files := map[string][]byte{"cacert.pem": a.Certificate}
	if issuer != nil {
		files["clientcert.pem"], files["clientkey.pem"] = issuer.Issue(t, x509.ExtKeyUsageClientAuth, "client")
	}
	return folder(t, files)
}

// Session is the libvirt of one user.
type Session struct {
	*Libvirt
	UID     int
	Runtime string // the user's XDG_RUNTIME_DIR
}

// StartSession starts the libvirtd of a user without privileges, on the machine
// whose libvirt l is. It ends with l.
func (l *Libvirt) StartSession(t testing.TB) *Session {
	t.Helper()
	const uid = 65534 // nobody
	dir := shortDir(t, "session")
	s := &Session{UID: uid, Runtime: filepath.Join(dir, "run")}
	s.Libvirt = &Libvirt{Dir: dir, Socket: filepath.Join(s.Runtime, "libvirt", "libvirt-sock"), Log: filepath.Join(dir, "libvirtd.log"), root: l.root}
	s.URI = "qemu+unix:///session?socket=" + s.Socket
	// StartDomain makes what is missing of the last one as the tests' user.
	for _, path := range []string{dir, s.Runtime, filepath.Join(dir, "home"), filepath.Join(dir, "domains"), filepath.Join(dir, "domains", "luksplug-test")} {
		Must(t, os.MkdirAll(path, 0o700))
		Must(t, os.Chown(path, uid, uid))
	}
	cmd := l.Inside(context.Background(), "setpriv", "--reuid="+strconv.Itoa(uid), "--regid="+strconv.Itoa(uid), "--clear-groups", "--reset-env",
		"env", "XDG_RUNTIME_DIR="+s.Runtime, "HOME="+filepath.Join(dir, "home"), "/usr/sbin/libvirtd")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	s.process, err = startTied(cmd, s.Log)
	Must(t, err)
	atEnd(t, s.Close, s.Log)
	if err := s.waitReady(ctx); err != nil {
		t.Fatalf("start a session's libvirtd: %v: %s", err, tail(s.Log, 2000))
	}
	return s
}

// Command is a program that the session's user runs, ready to start. It finds the
// session by the environment.
func (s *Session) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	id := fmt.Sprint(s.UID)
	cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid=" + id, "--regid=" + id, "--clear-groups", "--", name}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + s.Runtime, "HOME=" + filepath.Join(s.Dir, "home")}
	return cmd
}
