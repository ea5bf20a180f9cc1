package keystore

import (
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/barbican"
	"github.com/luksplug/luksplug/secrets/credentials"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/exec"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
	"github.com/luksplug/luksplug/secrets/keyring"
	"github.com/luksplug/luksplug/secrets/kmip"
	"github.com/luksplug/luksplug/secrets/libvirtstore"
	"github.com/luksplug/luksplug/secrets/pkcs11"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// ErrInvalidURI is wrapped by every error of [Open] except [UnknownSchemeError]
// and package pkcs11's ErrNotBuilt.
var ErrInvalidURI = storeuri.ErrInvalid

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

// Options are what stores may need of the program that opens them. With the zero
// value, no passphrase can be asked for.
type Options = storeuri.Options

// kind is one kind of store.
type kind struct {
	scheme string // before the first colon of the URI; or up to a "+" at its end
	syntax string // of the URI, for messages
	// open makes the store without accessing it. It takes the parameters that it
	// knows from the location; those that are left are refused.
	open func(l *storeuri.Location, o storeuri.Options) (secrets.Store, error)
}

// has reports whether a URI of that scheme is of this kind.
func (k kind) has(scheme string) bool {
	if strings.HasSuffix(k.scheme, "+") {
		return strings.HasPrefix(scheme, k.scheme) && scheme != k.scheme
	}
	return scheme == k.scheme
}

// kinds returns every kind of store, in the order in which they are documented.
func kinds() []kind {
	return []kind{
		{"dir", "dir:PATH", dir.Open},
		{"vm", "vm:[PATH]", vmkeys.Open},
		{"age", "age:PATH", age.Open},
		{"credentials", "credentials:[PATH]", credentials.Open},
		{"libvirt", "libvirt:", libvirtstore.Open},
		{"libvirt+", "libvirt+URI", libvirtstore.Open},
		{"keyring", "keyring:", keyring.Open},
		{"barbican+https", "barbican+https://HOST/", barbican.Open},
		{"barbican+http", "barbican+http://localhost/", barbican.Open},
		{"kmip", "kmip://HOST:PORT", kmip.Open},
		{"pkcs11", "pkcs11:ATTRIBUTES", pkcs11.Open},
		{"exec", "exec:COMMAND", exec.Open},
	}
}

// Open returns the store that uri names. It does not access the store: whether it
// can be reached shows at the first look-up. The store is a [secrets.Lister] or
// [secrets.Keeper] if its kind is. The error wraps [ErrInvalidURI], or is an
// [UnknownSchemeError].
func Open(uri string, o Options) (secrets.Store, error) {
	l, err := storeuri.Parse(uri)
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
		if err := l.Finish(); err != nil {
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
