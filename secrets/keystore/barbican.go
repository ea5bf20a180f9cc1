package keystore

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/barbican"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

func openBarbican(l *Location, o Options) (secrets.Store, error) {
	invalid := func(err error) error { return fmt.Errorf("%w: of kind barbican: %w", ErrInvalidURI, err) }
	base, err := l.url(strings.TrimPrefix(l.Scheme, "barbican+") + ":" + l.Rest)
	if err != nil {
		return nil, err
	}
	options := barbican.Options{Project: l.Take("project")}
	if options.Timeout, err = l.TakeDuration("timeout", 10*time.Second); err != nil {
		return nil, err
	}
	if options.Roots, err = l.roots(); err != nil {
		return nil, err
	}
	token, keystone := l.Take("token-file"), l.Take("keystone")
	login := &barbican.Login{User: l.Take("user"), ApplicationCredential: l.Take("application-credential"), Secret: o.credential(l.Take("password-file"))}
	switch {
	case token != "" && keystone != "":
		return nil, fmt.Errorf("%w: of kind barbican: token-file and keystone: give the one or the other", ErrInvalidURI)
	case keystone != "":
		if login.URL, err = l.url(keystone); err != nil {
			return nil, err
		}
		if login.Secret == nil {
			return nil, fmt.Errorf("%w: of kind barbican: keystone needs password-file: the file of the password, or of the application credential's secret", ErrInvalidURI)
		}
		login.Project, options.Project = options.Project, ""
		options.Login = login
	case login.User != "" || login.ApplicationCredential != "" || login.Secret != nil:
		return nil, fmt.Errorf("%w: of kind barbican: a credential needs keystone: the URL of Keystone, with /v3", ErrInvalidURI)
	default:
		options.Token = o.credential(token)
	}
	store, err := barbican.New(base, options)
	if err != nil {
		return nil, invalid(err)
	}
	return store, nil
}

// url reads a URL. What is wrong with it is not said: it may hold a password.
func (l *Location) url(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: it holds no URL: write it like https://HOST:PORT/", ErrInvalidURI, l.Scheme)
	}
	return u, nil
}

// roots takes the parameter ca-file out, and reads that file; nil where it was not
// given.
func (l *Location) roots() (*x509.CertPool, error) {
	path := l.Take("ca-file")
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %w", ErrInvalidURI, l.Scheme, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %s holds no certificate in PEM", ErrInvalidURI, l.Scheme, path)
	}
	return pool, nil
}

// credential returns how to read what a server is to be shown, from a file or
// fd:N; nil for "". A file is read each time, as tokens are renewed; a descriptor
// has its bytes once.
func (o Options) credential(source string) func() (*secrets.Secret, error) {
	if source == "" {
		return nil
	}
	open := o.ReadPassphrase
	if open == nil {
		open = func(source string) (*secrets.Secret, error) { return passphrase.Open(source, nil) }
	}
	read := func() (*secrets.Secret, error) { return open(source) }
	if !strings.HasPrefix(source, "fd:") && source != "-" {
		return read
	}
	again := once(read)
	return func() (*secrets.Secret, error) { return again(context.Background(), "") }
}
