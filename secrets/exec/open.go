package exec

import (
	"fmt"
	"net/url"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	command, err := url.PathUnescape(l.Rest)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind exec: a %% must precede two hexadecimal digits; write the sign itself as %%25", storeuri.ErrInvalid)
	}
	timeout, err := l.TakeDuration("timeout", 30*time.Second)
	if err != nil {
		return nil, err
	}
	store, err := New(command, Options{Timeout: timeout, Stderr: o.Stderr})
	if err != nil {
		return nil, fmt.Errorf("%w: of kind exec: %w", storeuri.ErrInvalid, err)
	}
	return store, nil
}
