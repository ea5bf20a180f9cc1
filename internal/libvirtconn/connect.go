package libvirtconn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/luksplug/luksplug/internal/dialing"
)

// The ports that libvirt listens on.
const (
	tcpPort = "16509"
	tlsPort = "16514"
)

// Connect connects to libvirt and opens its driver. ctx bounds that, and has no
// effect on the connection afterwards. closing ends it without waiting for an answer,
// unlike go-libvirt's Disconnect: pending calls fail.
//
// The errors say what to do where possible. They wrap those of the system and [libvirt.Error].
func (u *URI) Connect(ctx context.Context) (l *libvirt.Libvirt, closing func(), err error) {
	return u.ConnectThrough(ctx, func(conn net.Conn) net.Conn { return conn })
}

// ConnectThrough is like [URI.Connect]; go-libvirt uses the connection that through returns
// for the one to libvirt. The latter has a method Wipe() if it is encrypted, which clears the
// buffers with its decrypted content once it is closed.
func (u *URI) ConnectThrough(ctx context.Context, through func(net.Conn) net.Conn) (l *libvirt.Libvirt, closing func(), err error) {
	conn, err := u.dial(ctx)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = &dialing.Error{Text: "it does not answer: " + ctx.Err().Error(), Err: errors.Join(ctx.Err(), err)}
		}
		return nil, nil, fmt.Errorf("connect to libvirt %s: %w", u, err)
	}
	l = libvirt.NewWithDialer(dialers.NewAlreadyConnected(&framed{Conn: through(conn)}))
	var answer error
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer = l.ConnectToURI(libvirt.ConnectURI(u.remote()))
	}()
	select {
	case <-done:
		err = answer
	case <-ctx.Done():
		_ = conn.Close() // which ends the call
		<-done
		err = fmt.Errorf("it does not answer: %w", ctx.Err())
	}
	if err != nil {
		_ = conn.Close() // the first error counts
		return nil, nil, fmt.Errorf("connect to libvirt %s: %w", u, refusal(conn, err))
	}
	return l, func() { _ = conn.Close() }, nil // nothing is lost with it
}

// explainer is a connection that may know why it ended.
type explainer interface{ why() error }

// refusal explains the error of the first call.
func refusal(conn net.Conn, err error) error {
	var from libvirt.Error
	switch {
	case errors.As(err, &from) && (libvirt.ErrorNumber(from.Code) == libvirt.ErrAuthFailed || libvirt.ErrorNumber(from.Code) == libvirt.ErrAuthUnavailable):
		return fmt.Errorf("%w: it requires SASL or another authentication that luksplug does not have: use +ssh or +tls", err)
	case errors.As(err, &from), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if t, ok := conn.(explainer); ok {
		if why := t.why(); why != nil {
			return why
		}
	}
	return &dialing.Error{Text: "it ended the connection without an answer: libvirt is being restarted, or another service listens there", Err: err}
}

// dial opens the connection that libvirt's RPC goes over.
func (u *URI) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	switch u.Transport {
	case Unix:
		return u.dialUnix(ctx)
	case TCP:
		conn, err := d.DialContext(ctx, "tcp", u.address(tcpPort))
		return conn, tcpError(err, "does libvirt listen there, without TLS (libvirtd-tcp.socket)?")
	case TLS:
		return u.dialTLS(ctx)
	}
	return u.dialSSH(ctx)
}

// tcpError says why there is no connection to a port. ask is what to look at.
func tcpError(err error, ask string) error {
	if err == nil {
		return nil
	}
	why := dialing.TCP(err)
	if why.Kind == dialing.Dead || why.Kind == dialing.Silent {
		why.Text += ": " + ask
	}
	return &dialing.Error{Text: why.Text, Err: err}
}

func (u *URI) address(port string) string { return net.JoinHostPort(u.Host, cmp.Or(u.Port, port)) }

// The names of the daemons' sockets: that of QEMU's driver alone, and that of the daemon for everything.
const (
	directSocket = "virtqemud-sock"
	legacySocket = "libvirt-sock"
)

// dialUnix tries the sockets in the order in which libvirt does.
func (u *URI) dialUnix(ctx context.Context) (net.Conn, error) {
	paths := []string{u.socket}
	if u.socket == "" {
		dir, err := socketDir(u.Session, os.Getenv)
		if err != nil {
			return nil, err
		}
		paths = nil
		for _, name := range u.socketNames() {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	var d net.Dialer
	var err error
	for i, path := range paths {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "unix", path); err == nil {
			return conn, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			paths = paths[i : i+1]
			break
		}
	}
	return nil, u.unixError(paths, err)
}

// unixError says why no socket of the paths could be connected to. err is the error of the last.
func (u *URI) unixError(paths []string, err error) error {
	last := paths[len(paths)-1]
	why := dialing.Unix(last, err)
	text := last + ": " + why.Text
	switch {
	case why.Kind == dialing.Denied:
		text += ": become root or a member of libvirt's group"
	case (why.Kind == dialing.Missing || why.Kind == dialing.Dead) && u.socket != "":
		text += ": start that libvirt, or correct ?socket="
	case (why.Kind == dialing.Missing || why.Kind == dialing.Dead) && u.Session:
		text += ": the user's libvirt is not running: virsh --connect qemu:///session version starts it"
	case why.Kind == dialing.Missing || why.Kind == dialing.Dead:
		text += ": libvirt is not running on this host: systemctl start libvirtd (or virtqemud.socket) starts it"
		if len(paths) > 1 {
			text = "neither " + strings.Join(paths, " nor ") + " exists: libvirt is not running on this host: systemctl start libvirtd (or virtqemud.socket) starts it"
		}
	case why.Kind == dialing.NotSocket:
		text += ": correct ?socket="
	}
	return &dialing.Error{Text: text, Err: err}
}

func (u *URI) socketNames() []string {
	switch u.mode {
	case "legacy":
		return []string{legacySocket}
	case "direct":
		return []string{directSocket}
	}
	return []string{directSocket, legacySocket}
}

// socketDir is where libvirt has its sockets: the system's, or the user's, by
// the XDG Base Directory Specification.
func socketDir(session bool, env func(string) string) (string, error) {
	if !session {
		return "/run/libvirt", nil
	}
	for _, name := range []string{"XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "HOME"} {
		dir := env(name)
		if !filepath.IsAbs(dir) {
			continue
		}
		if name == "HOME" {
			dir = filepath.Join(dir, ".cache")
		}
		return filepath.Join(dir, "libvirt"), nil
	}
	return "", errors.New("the directory of the user's libvirt is unknown: set XDG_RUNTIME_DIR, or give ?socket=")
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements [io.Writer]. It does not fail.
func (t *tail) Write(p []byte) (int, error) {
	const enough = 2000
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-enough):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
