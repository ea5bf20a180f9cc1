package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	options := Options{Dir: l.Take("wrapped"), Application: l.Take("application")}
	mechanism, err := l.TakeOne("mechanism", string(AESGCM), string(AESKeyWrapPad), string(AESKeyWrap))
	if err != nil {
		return nil, err
	}
	options.Mechanism = Mechanism(mechanism)
	const enough = 30 * time.Second
	if options.Timeout, err = l.TakeDuration("timeout", enough); err != nil {
		return nil, err
	}
	if options.URI, err = ParseURI(l.TakeRest()); err != nil {
		return nil, fmt.Errorf("%w: %w", storeuri.ErrInvalid, err)
	}
	options.PIN = o.Prompt
	if read := o.Source(options.URI.PINSource()); read != nil {
		options.PIN = func(context.Context, string) (*secrets.Secret, error) { return read() }
	}
	store, err := New(options)
	if errors.Is(err, ErrInvalidURI) {
		return nil, fmt.Errorf("%w: %w", storeuri.ErrInvalid, err)
	}
	return store, err
}
