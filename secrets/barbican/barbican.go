package barbican

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ErrInvalidURL is wrapped by the errors of [New].
var ErrInvalidURL = errors.New("invalid address of a Barbican")

// Options configure the connection to the server. The zero value is for a server
// that requires neither authentication nor a project.
type Options struct {
	// Timeout bounds each call with all its requests; 0 means 10 seconds.
	Timeout time.Duration
	// Roots are the authorities that may sign the server's certificate; nil
	// means those of the system.
	Roots *x509.CertPool
	// Project is the id of the project, for a server without authentication;
	// otherwise the token determines the project.
	Project string
	// Token returns the Keystone token for each call. The store wipes it. nil
	// means no token.
	Token func() (*secrets.Secret, error)
	// Login gets a token from Keystone for each call, if Token is nil.
	Login *Login
}

// Store is a [secrets.Keeper] in a project of Barbican. Make one with [New].
type Store struct {
	base    *url.URL
	options Options
}

// New returns the store of the Barbican at base, an https URL without the version
// (v1). http is allowed only for the loopback. Each call opens new connections. The
// error wraps [ErrInvalidURL] and omits the URL, which may contain a password.
func New(base *url.URL, o Options) (*Store, error) {
	if err := checkURL(base); err != nil {
		return nil, err
	}
	if o.Login != nil {
		if err := o.Login.check(); err != nil {
			return nil, err
		}
	}
	const enough = 10 * time.Second
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	own := *base
	return &Store{&own, o}, nil
}

// checkURL returns an error if secrets must not be sent to u.
func checkURL(u *url.URL) error {
	switch {
	case u.Hostname() == "":
		return fmt.Errorf("%w: it has no host", ErrInvalidURL)
	case u.User != nil:
		return fmt.Errorf("%w: it has a user: give credentials by a file", ErrInvalidURL)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%w: it must end with its path", ErrInvalidURL)
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%w: http sends passphrases in clear and is allowed only for this host: use https", ErrInvalidURL)
	}
	return fmt.Errorf("%w: it is not an https URL", ErrInvalidURL)
}

// isLoopback reports whether host is a loopback address or localhost. It resolves no names: a resolver is not trusted.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String returns "barbican+" and the URL.
func (s *Store) String() string { return "barbican+" + s.base.String() }

// with runs f with a connection, and repeats it if f returns errChanged: other clients may change the project anytime.
func (s *Store) with(ctx context.Context, ref secrets.Reference, f func(context.Context, *client) error) error {
	err := storecall.Bounded(ctx, s.options.Timeout, "the server", func(ctx context.Context) error {
		c, err := connect(ctx, s.base, s.options)
		if err != nil {
			return err
		}
		defer c.close()
		const attempts = 20
		for range attempts {
			if err := f(ctx, c); !errors.Is(err, errChanged) {
				return err
			}
		}
		return fmt.Errorf("%w: other clients change the secrets of the project faster than they can be read", secrets.ErrUnreachable)
	})
	return storecall.Fail(s, ref, err)
}

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	var value *secrets.Secret
	err := s.with(ctx, ref, func(ctx context.Context, c *client) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		v, err := find(ctx, c, ref)
		if err != nil {
			return err
		}
		if v.contentType == "" {
			return secrets.ErrNoValue
		}
		value, err = c.payload(ctx, v.item)
		if errors.Is(err, secrets.ErrNotFound) {
			return errChanged // removed since it was found
		}
		return err
	})
	return value, err
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	err = s.with(ctx, ref, func(ctx context.Context, c *client) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		v, err := find(ctx, c, ref)
		d = v.document
		return err
	})
	return d, err
}

// List implements [secrets.Lister]. It lists all secrets of the project; those of
// other programs have Barbican's uuid and name.
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	var documents []secrets.Document
	err := s.with(ctx, secrets.Reference{}, func(ctx context.Context, c *client) error {
		items, err := c.list(ctx, "")
		if err != nil {
			return err
		}
		found, damaged, err := resolve(ctx, c, items)
		if err != nil {
			return err
		}
		documents = documentsOf(found)
		return damaged
	})
	return documents, err
}
