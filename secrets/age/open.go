package age

import (
	"context"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	path, err := l.Path("a directory")
	if err != nil {
		return nil, err
	}
	key, err := l.TakeOne("key", "x25519", "hybrid")
	if err != nil {
		return nil, err
	}
	protect, err := l.TakeOne("protect", "none", "passphrase")
	if err != nil {
		return nil, err
	}
	options := Options{
		Identity:    l.Take("identity"),
		PostQuantum: key == "hybrid",
		Protect:     protect == "passphrase",
		Passphrase:  o.Prompt,
	}
	if spec := l.Take("passphrase-file"); spec != "" {
		read := o.Once(spec)
		options.Passphrase = func(context.Context, string) (*secrets.Secret, error) { return read() }
	}
	return New(path, options), nil
}
