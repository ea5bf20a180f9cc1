package dir

import (
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, _ storeuri.Options) (secrets.Store, error) {
	path, err := l.Path("a directory")
	if err != nil {
		return nil, err
	}
	return New(path), nil
}
