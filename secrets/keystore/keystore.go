package keystore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// ErrInvalidURI is wrapped by the errors of [Open], except for
// [UnknownSchemeError].
var ErrInvalidURI = errors.New("invalid key store URI")

// UnknownSchemeError is the error of [Open] for a kind of store that does not
// exist. It holds the scheme only: the rest of a URI may hold a password.
type UnknownSchemeError struct {
	Scheme string
	Known  []string // sorted
}

// Error implements error.
func (e *UnknownSchemeError) Error() string {
	return fmt.Sprintf("unknown kind of key store %q: known are %s", e.Scheme, strings.Join(e.Known, ", "))
}

// Open returns the store that uri names. It does not look at the store yet:
// whether it can be reached is seen by the first look-up.
func Open(uri string) (secrets.Store, error) {
	scheme, rest, found := strings.Cut(uri, ":")
	if !found {
		return nil, fmt.Errorf("%w: it has no scheme: for a folder write dir:PATH", ErrInvalidURI)
	}
	switch scheme {
	case "dir":
		if rest == "" {
			return nil, fmt.Errorf("%w: dir: is followed by the path of a folder", ErrInvalidURI)
		}
		return dir.New(rest), nil
	}
	return nil, &UnknownSchemeError{Scheme: scheme, Known: []string{"dir:PATH"}}
}
