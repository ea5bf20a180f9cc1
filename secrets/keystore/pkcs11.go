package keystore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

func openPKCS11(l *Location, o Options) (secrets.Store, error) {
	options := pkcs11.Options{Folder: l.Take("wrapped"), Application: l.Take("application")}
	mechanism, err := l.TakeOne("mechanism", string(pkcs11.AESGCM), string(pkcs11.AESKeyWrapPad), string(pkcs11.AESKeyWrap))
	if err != nil {
		return nil, err
	}
	options.Mechanism = pkcs11.Mechanism(mechanism)
	const enough = 30 * time.Second
	if options.Timeout, err = l.TakeDuration("timeout", enough); err != nil {
		return nil, err
	}
	if options.URI, err = pkcs11.ParseURI(l.pkcs11()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidURI, err)
	}
	options.PIN = o.Prompt
	if read := o.credential(options.URI.PINSource()); read != nil {
		options.PIN = func(context.Context, string) (*secrets.Secret, error) { return read() }
	}
	store, err := pkcs11.New(options)
	if errors.Is(err, pkcs11.ErrInvalidURI) {
		return nil, fmt.Errorf("%w: %w", ErrInvalidURI, err)
	}
	return store, err
}

// pkcs11 takes all parameters that are left out, and returns the URI of RFC 7512
// that they belong to: as it was written, since in that a plus is a plus.
func (l *Location) pkcs11() string {
	var rest []string
	for part := range strings.SplitSeq(l.query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if l.parameters.Has(name) {
			rest = append(rest, part)
		}
	}
	clear(l.parameters)
	return l.Scheme + ":" + l.Rest + "?" + strings.Join(rest, "&")
}
