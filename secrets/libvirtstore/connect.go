package libvirtstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/luksplug/luksplug/secrets"
)

// defaultSocket is where libvirtd listens.
const defaultSocket = "/run/libvirt/libvirt-sock"

// ErrInvalidURI is wrapped by the errors of [New].
var ErrInvalidURI = errors.New("invalid libvirt URI")

// transport returns how libvirt is reached, by the rules of
// https://libvirt.org/uri.html.
func transport(uri *url.URL) string {
	if _, t, found := strings.Cut(uri.Scheme, "+"); found {
		return t
	}
	if uri.Host != "" {
		return "tls"
	}
	return "unix"
}

func checkURI(uri *url.URL) error {
	if uri.Scheme == "" || uri.Opaque != "" {
		return fmt.Errorf("%w: write it like qemu:///system", ErrInvalidURI)
	}
	if transport(uri) == "tcp" {
		ip := net.ParseIP(uri.Hostname())
		if uri.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("%w: +tcp would send secrets to %s in clear: use +tls or +ssh", ErrInvalidURI, uri.Host)
		}
	}
	return nil
}

// connect connects to libvirt until ctx ends. The caller calls close.
func connect(ctx context.Context, uri *url.URL) (l *libvirt.Libvirt, close func(), err error) {
	if transport(uri) != "unix" {
		// go-libvirt dials itself; what hangs is left to itself.
		l, err := within(ctx, func() (*libvirt.Libvirt, error) { return libvirt.ConnectToURI(uri) })
		if err != nil {
			return nil, nil, answer(err)
		}
		return l, func() { go func() { _ = l.Disconnect() }() }, nil
	}
	socket := uri.Query().Get("socket")
	if socket == "" {
		socket = defaultSocket
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, nil, fmt.Errorf("%w: %w: become root or a member of libvirt's group", secrets.ErrDenied, err)
		}
		return nil, nil, answer(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	close = func() {
		stop()
		_ = conn.Close() // libvirtd takes it for the end; only read
	}
	l = libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	if _, err := within(ctx, func() (struct{}, error) { return struct{}{}, l.ConnectToURI(libvirt.RemoteURI(uri)) }); err != nil {
		close()
		return nil, nil, answer(err)
	}
	return l, close, nil
}

// within calls f, which knows no context, as none of go-libvirt does.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	var none T
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case r := <-done:
		if ctx.Err() != nil { // and so the connection was closed
			return none, ctx.Err()
		}
		return r.value, r.err
	}
}

// answer makes an error of libvirt or of the connection to it one of the store.
func answer(err error) error {
	var from libvirt.Error
	if !errors.As(err, &from) {
		return fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	switch libvirt.ErrorNumber(from.Code) {
	case libvirt.ErrNoSecret:
		return secrets.ErrNotFound
	case libvirt.ErrAccessDenied, libvirt.ErrOperationDenied, libvirt.ErrAuthFailed, libvirt.ErrAuthCancelled, libvirt.ErrAuthUnavailable:
		return fmt.Errorf("%w: libvirt says: %s", secrets.ErrDenied, from.Message)
	}
	return fmt.Errorf("%w: libvirt says: %s", secrets.ErrUnreachable, from.Message)
}
