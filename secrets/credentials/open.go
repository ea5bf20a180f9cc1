package credentials

import (
	"os"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	if l.Rest == "" {
		return New(os.Getenv("CREDENTIALS_DIRECTORY")), nil
	}
	path, err := l.Path("a directory")
	if err != nil {
		return nil, err
	}
	timeout, err := l.TakeDuration("timeout", 30*time.Second)
	if err != nil {
		return nil, err
	}
	return NewEncrypted(path, Options{Timeout: timeout, Stderr: o.Stderr}), nil
}
