package keystore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// ErrInvalidURI is wrapped by the errors of [Open], except for
// [UnknownSchemeError], and for package pkcs11's ErrNotBuilt.
var ErrInvalidURI = errors.New("invalid key store URI")

// UnknownSchemeError is the error of [Open] for a kind of store that does not
// exist. It holds the scheme only: the rest of a URI may hold a password.
type UnknownSchemeError struct {
	Scheme string
	Known  []string
}

// Error implements error.
func (e *UnknownSchemeError) Error() string {
	return fmt.Sprintf("unknown kind of key store %q: known are %s", e.Scheme, strings.Join(e.Known, ", "))
}

// Options are what stores may need of the program that opens them. The zero value
// is of use: nobody can be asked anything.
type Options struct {
	// Prompt asks a person for the passphrase that opens a store; nil where
	// there is nobody to ask, so that the store is [secrets.ErrLocked] then.
	// question says what for, without a colon.
	Prompt func(ctx context.Context, question string) (*secrets.Secret, error)
	// ReadPassphrase reads the passphrase of a store from a source that its URI
	// names: a file, or fd:N; nil for package passphrase.
	ReadPassphrase func(source string) (*secrets.Secret, error)
	// Stderr is where programs that a store runs write their messages; nil
	// for nowhere.
	Stderr io.Writer
	// VM tells the UUID of the VM whose disk a secret is looked up for, "" for
	// none. It is asked at each look-up. nil is no VM.
	VM func() string
}

// kind is one kind of store.
type kind struct {
	scheme string // before the first colon of the URI; or up to a "+" at its end
	syntax string // of the URI, for people
	// open makes the store. It does not look at the place yet, and takes the
	// parameters that it knows out of the location; what is left is refused.
	open func(l *Location, o Options) (secrets.Store, error)
}

// has tells whether a URI of that scheme is of this kind.
func (k kind) has(scheme string) bool {
	if strings.HasSuffix(k.scheme, "+") {
		return strings.HasPrefix(scheme, k.scheme) && scheme != k.scheme
	}
	return scheme == k.scheme
}

// kinds returns every kind of store, in the order in which people read of them.
func kinds() []kind {
	return []kind{
		{"dir", "dir:PATH", openDir},
		{"vm", "vm:[PATH]", openVM},
		{"age", "age:PATH", openAge},
		{"credentials", "credentials:[PATH]", openCredentials},
		{"libvirt", "libvirt:", openLibvirt},
		{"libvirt+", "libvirt+URI", openLibvirt},
		{"keyring", "keyring:", openKeyring},
		{"barbican+https", "barbican+https://HOST/", openBarbican},
		{"barbican+http", "barbican+http://localhost/", openBarbican},
		{"kmip", "kmip://HOST:PORT", openKMIP},
		{"pkcs11", "pkcs11:ATTRIBUTES", openPKCS11},
		{"exec", "exec:COMMAND", openExec},
	}
}

func openDir(l *Location, _ Options) (secrets.Store, error) {
	path, err := l.Path("a folder")
	if err != nil {
		return nil, err
	}
	return dir.New(path), nil
}

// Open returns the store that uri names. It does not look at the store yet:
// whether it can be reached is seen by the first look-up. The store is a
// [secrets.Lister] or [secrets.Keeper] where its kind is.
func Open(uri string, o Options) (secrets.Store, error) {
	l, err := parse(uri)
	if err != nil {
		return nil, err
	}
	for _, k := range kinds() {
		if !k.has(l.Scheme) {
			continue
		}
		encoding, err := takeEncoding(l)
		if err != nil {
			return nil, err
		}
		store, err := k.open(l, o)
		if err != nil {
			return nil, err
		}
		if err := l.finish(); err != nil {
			return nil, err
		}
		return encoded(store, encoding), nil
	}
	return nil, &UnknownSchemeError{Scheme: l.Scheme, Known: Syntaxes()}
}

// Syntaxes returns how the URI of each kind of store is written.
func Syntaxes() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.syntax)
	}
	return out
}
