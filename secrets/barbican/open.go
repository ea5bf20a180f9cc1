package barbican

import (
	"fmt"
	"strings"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	invalid := func(err error) error { return fmt.Errorf("%w: of kind barbican: %w", storeuri.ErrInvalid, err) }
	base, err := l.URL(strings.TrimPrefix(l.Scheme, "barbican+") + ":" + l.Rest)
	if err != nil {
		return nil, err
	}
	options := Options{Project: l.Take("project")}
	if options.Timeout, err = l.TakeDuration("timeout", 10*time.Second); err != nil {
		return nil, err
	}
	if options.Roots, err = l.TakeRoots(); err != nil {
		return nil, err
	}
	token, keystone := l.Take("token-file"), l.Take("keystone")
	login := &Login{User: l.Take("user"), ApplicationCredential: l.Take("application-credential"), Secret: o.Source(l.Take("password-file"))}
	switch {
	case token != "" && keystone != "":
		return nil, fmt.Errorf("%w: of kind barbican: token-file and keystone: give the one or the other", storeuri.ErrInvalid)
	case keystone != "":
		if login.URL, err = l.URL(keystone); err != nil {
			return nil, err
		}
		if login.Secret == nil {
			return nil, fmt.Errorf("%w: of kind barbican: keystone needs password-file: the file of the password, or of the application credential's secret", storeuri.ErrInvalid)
		}
		login.Project, options.Project = options.Project, ""
		options.Login = login
	case login.User != "" || login.ApplicationCredential != "" || login.Secret != nil:
		return nil, fmt.Errorf("%w: of kind barbican: a credential needs keystone: the URL of Keystone, with /v3", storeuri.ErrInvalid)
	default:
		options.Token = o.Source(token)
	}
	store, err := New(base, options)
	if err != nil {
		return nil, invalid(err)
	}
	return store, nil
}
