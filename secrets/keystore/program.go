package keystore

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/credentials"
	"github.com/luksplug/luksplug/secrets/exec"
)

const programTimeout = 30 * time.Second

func openCredentials(l *Location, o Options) (secrets.Store, error) {
	if l.Rest == "" {
		return credentials.New(os.Getenv("CREDENTIALS_DIRECTORY")), nil
	}
	path, err := l.Path("a folder")
	if err != nil {
		return nil, err
	}
	timeout, err := l.TakeDuration("timeout", programTimeout)
	if err != nil {
		return nil, err
	}
	return credentials.NewEncrypted(path, credentials.Options{Timeout: timeout, Stderr: o.Stderr}), nil
}

func openExec(l *Location, o Options) (secrets.Store, error) {
	command, err := url.PathUnescape(l.Rest)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind exec: a %% stands before two hexadecimal digits; the sign itself is %%25", ErrInvalidURI)
	}
	timeout, err := l.TakeDuration("timeout", programTimeout)
	if err != nil {
		return nil, err
	}
	store, err := exec.New(command, exec.Options{Timeout: timeout, Stderr: o.Stderr})
	if err != nil {
		return nil, fmt.Errorf("%w: of kind exec: %w", ErrInvalidURI, err)
	}
	return store, nil
}
