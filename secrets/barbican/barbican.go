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

// Options say how to talk to the server. The zero value is of use with a server
// that asks for nothing.
type Options struct {
	// Timeout bounds each call, with all of its requests; 0 for 10 seconds.
	Timeout time.Duration
	// Roots are the authorities of the server's certificate; nil for the
	// system's.
	Roots *x509.CertPool
	// Project is the id of the project, for a server without authentication:
	// others know it by the token.
	Project string
	// Token returns the token of Keystone's by which each call is made. The
	// store wipes it. nil for none.
	Token func() (*secrets.Secret, error)
	// Login gets a token for each call from Keystone, where Token is nil.
	Login *Login
}

// Store is a [secrets.Keeper] in a project of Barbican. Make one with [New].
type Store struct {
	base    *url.URL
	options Options
}

// New returns the store of the Barbican at base, an https URL without the version
// (v1). http is for the host itself. It is connected to by each call anew. The
// error wraps [ErrInvalidURL], and does not say the URL: it may hold a password.
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

// checkURL reports whether secrets may be sent there.
func checkURL(u *url.URL) error {
	switch {
	case u.Hostname() == "":
		return fmt.Errorf("%w: it has no host", ErrInvalidURL)
	case u.User != nil:
		return fmt.Errorf("%w: it has a user: credentials are given by a file", ErrInvalidURL)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%w: it ends with its path", ErrInvalidURL)
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%w: http sends passphrases in clear, and is for this host only: use https", ErrInvalidURL)
	}
	return fmt.Errorf("%w: it is no URL with https", ErrInvalidURL)
}

// isLoopback does not resolve names: a resolver may answer anything.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String returns "barbican+" and the URL.
func (s *Store) String() string { return "barbican+" + s.base.String() }

// with runs f with a connection, and again if f returns errChanged: other clients may change the project at any moment.
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
		return fmt.Errorf("%w: others change the secrets of the project faster than they can be read", secrets.ErrUnreachable)
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
			return errChanged // it was there a moment ago
		}
		return err
	})
	return value, err
}

// List implements [secrets.Lister]. It lists all secrets of the project, those of
// other programs with Barbican's uuid and name.
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
