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

// UnknownSchemeError is the error of [Open] for an unknown kind of store. It
// contains only the scheme: the rest of a URI may contain a password.
type UnknownSchemeError struct {
	Scheme string
	Known  []string
}

// Error implements error.
func (e *UnknownSchemeError) Error() string {
	return fmt.Sprintf("unknown kind of key store %q: known are %s", e.Scheme, strings.Join(e.Known, ", "))
}

// Options are what stores may need from the program that opens them. With the zero
// value, a store cannot prompt for a passphrase.
type Options = storeuri.Options

// kind is one kind of store.
type kind struct {
	scheme string // before the first colon of the URI; a prefix if it ends with "+"
	syntax string // of the URI, for messages
	// open returns the store without accessing it. It removes the parameters that
	// it supports from the location; the caller refuses the remaining ones.
	open func(l *storeuri.Location, o storeuri.Options) (secrets.Store, error)
}

// has reports whether a URI of that scheme is of this kind.
func (k kind) has(scheme string) bool {
	if strings.HasSuffix(k.scheme, "+") {
		return strings.HasPrefix(scheme, k.scheme) && scheme != k.scheme
	}
	return scheme == k.scheme
}

// kinds returns all kinds of stores, in the order of the documentation.
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

// Open returns the store that uri names. It does not access the store: an
// unreachable store fails at the first look-up. The store is a [secrets.Lister] or
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

// VMKeys returns where a store of the kind vm: holds the keys of all VMs; found is false
// for a store of another kind. The error wraps [ErrInvalidURI].
func VMKeys(uri string, o Options) (places vmkeys.Places, found bool, err error) {
	l, err := storeuri.Parse(uri)
	if err != nil || l.Scheme != "vm" {
		return places, false, err
	}
	places, err = vmkeys.PlacesOf(l, o)
	return places, err == nil, err
}

// Syntaxes returns the URI syntax of each kind of store, for messages.
func Syntaxes() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.syntax)
	}
	return out
}
