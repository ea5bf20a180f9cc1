package libvirtstore

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/secrets"
)

// ErrInvalidURI is wrapped by the errors of [New].
var ErrInvalidURI = errors.New("invalid libvirt URI")

// parse parses the URI. URIs that libvirt supports and package libvirtconn does not
// are invalid too.
func parse(uri *url.URL) (*libvirtconn.URI, error) {
	u, err := libvirtconn.Parse(uri.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidURI, err)
	}
	if u.Clear() {
		return nil, fmt.Errorf("%w: +tcp would send secrets to %s in clear: use +tls or +ssh", ErrInvalidURI, u.Host)
	}
	return u, nil
}

// answer converts an error of libvirt or of the connection to one of package secrets.
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
