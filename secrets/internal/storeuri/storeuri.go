// Package storeuri takes the URI of a key store apart: SCHEME:REST?PARAMETER=VALUE&...
// Each kind of store has a function Open that makes the store of a [Location];
// package keystore finds it by the scheme.
//
// Errors wrap [ErrInvalid]. They never hold a value that may be a password.
package storeuri

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// ErrInvalid reports a URI that is not one of a key store, or not of its kind.
var ErrInvalid = errors.New("invalid key store URI")

// Options are what stores may need of the program that opens them. With the zero
// value, no passphrase can be asked for.
type Options struct {
	// Prompt asks the user for the passphrase that opens a store; question names it, without a colon. If Prompt is nil,
	// the store fails with [secrets.ErrLocked].
	Prompt func(ctx context.Context, question string) (*secrets.Secret, error)
	// ReadPassphrase reads the passphrase of a store from a source that its URI
	// names: a file, or fd:N; nil for package passphrase.
	ReadPassphrase func(source string) (*secrets.Secret, error)
	// Stderr is where programs that a store runs write their messages; nil
	// discards them.
	Stderr io.Writer
	// VM returns the UUID of the VM whose disk a secret is looked up for, "" for
	// none. It is called at each look-up. nil is no VM.
	VM func() string
}

// Source returns a function that reads a passphrase or token from a file or fd:N;
// nil for "". A file is read each time, since tokens are renewed; a descriptor
// has its bytes once, so they are kept.
func (o Options) Source(source string) func() (*secrets.Secret, error) {
	if source == "" {
		return nil
	}
	read := o.reader(source)
	if !strings.HasPrefix(source, "fd:") && source != "-" {
		return read
	}
	return once(read)
}

// Once is [Options.Source] that reads a file once as well: a new passphrase is
// asked for twice.
func (o Options) Once(source string) func() (*secrets.Secret, error) { return once(o.reader(source)) }

func (o Options) reader(source string) func() (*secrets.Secret, error) {
	if o.ReadPassphrase != nil {
		return func() (*secrets.Secret, error) { return o.ReadPassphrase(source) }
	}
	return func() (*secrets.Secret, error) { return passphrase.Open(source, nil) }
}

// once returns a copy of what the first call of read returned.
func once(read func() (*secrets.Secret, error)) func() (*secrets.Secret, error) {
	first := sync.OnceValues(read)
	return func() (*secrets.Secret, error) {
		s, err := first()
		if err != nil {
			return nil, err
		}
		var out *secrets.Secret
		err = s.Use(func(b []byte) error { out = secrets.New(bytes.Clone(b)); return nil })
		return out, err
	}
}

// Location is a key store's URI, taken apart. A kind of store takes out the
// parameters that it knows.
type Location struct {
	Scheme string
	// Rest is what stands between the scheme's colon and the "?", as it was
	// written: percent-encoded.
	Rest string

	parameters url.Values
	query      string // as it was written
}

// Parse takes a URI apart.
func Parse(uri string) (*Location, error) {
	scheme, rest, found := strings.Cut(uri, ":")
	if !found {
		return nil, fmt.Errorf("%w: it has no scheme: for a directory write dir:PATH", ErrInvalid)
	}
	rest, query, _ := strings.Cut(rest, "?")
	if strings.Contains(rest, "#") || strings.Contains(query, "#") {
		return nil, fmt.Errorf("%w: of kind %s: a # in it is written %%23", ErrInvalid, scheme)
	}
	// Its error would say the value, which may be a password.
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: what follows the ? is PARAMETER=VALUE&..., with %% only before two hexadecimal digits", ErrInvalid, scheme)
	}
	for name, values := range parameters {
		if len(values) > 1 {
			return nil, fmt.Errorf("%w: of kind %s: parameter %q is given %d times", ErrInvalid, scheme, name, len(values))
		}
	}
	return &Location{Scheme: scheme, Rest: rest, parameters: parameters, query: query}, nil
}

// Path returns Rest, decoded, as the path of what the argument says ("a directory").
// An empty one is an error.
func (l *Location) Path(what string) (string, error) {
	path, err := url.PathUnescape(l.Rest)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: of kind %s: a %% stands before two hexadecimal digits; the sign itself is %%25", ErrInvalid, l.Scheme)
	case path == "":
		return "", fmt.Errorf("%w: %s: is followed by the path of %s", ErrInvalid, l.Scheme, what)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%w: of kind %s: the path holds a NUL character", ErrInvalid, l.Scheme)
	}
	return path, nil
}

// Nothing refuses a Rest, for a kind that needs none.
func (l *Location) Nothing() error {
	if l.Rest != "" {
		return fmt.Errorf("%w: %s: is followed by nothing but parameters", ErrInvalid, l.Scheme)
	}
	return nil
}

// Take removes a parameter and returns its value; "" if it was not given.
func (l *Location) Take(name string) string {
	value := l.parameters.Get(name)
	l.parameters.Del(name)
	return value
}

// TakeDuration removes a parameter that is a time greater than 0, such as 5s, and
// returns it; otherwise if it was not given.
func (l *Location) TakeDuration(name string, otherwise time.Duration) (time.Duration, error) {
	value := l.Take(name)
	if value == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%w: of kind %s: %s=%s is not a time: write it like %s=5s", ErrInvalid, l.Scheme, name, value, name)
	}
	return d, nil
}

// TakeOne removes a parameter that has one of the given values and returns it;
// the first of them if it was not given.
func (l *Location) TakeOne(name string, values ...string) (string, error) {
	value := l.Take(name)
	switch {
	case value == "":
		return values[0], nil
	case !slices.Contains(values, value):
		return "", fmt.Errorf("%w: of kind %s: %s=%s is not known: use %s", ErrInvalid, l.Scheme, name, value, strings.Join(values, ", "))
	}
	return value, nil
}

// Finish returns an error if parameters are left.
func (l *Location) Finish() error {
	if len(l.parameters) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(l.parameters))
	return fmt.Errorf("%w: of kind %s: unknown parameter %s", ErrInvalid, l.Scheme, strings.Join(names, ", "))
}

// URL parses a URL. The error does not quote it: it may hold a password.
func (l *Location) URL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: it holds no URL: write it like https://HOST:PORT/", ErrInvalid, l.Scheme)
	}
	return u, nil
}

// TakeRoots removes the parameter ca-file and returns the certificates of that
// file; nil if it was not given.
func (l *Location) TakeRoots() (*x509.CertPool, error) {
	path := l.Take("ca-file")
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %w", ErrInvalid, l.Scheme, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %s holds no certificate in PEM", ErrInvalid, l.Scheme, path)
	}
	return pool, nil
}

// HostPort returns the HOST:PORT of a Rest that is the address of a server,
// //HOST:PORT, with no path but a /; port if it has none.
func (l *Location) HostPort(port string) (string, error) {
	// The error would say what may be a password.
	u, err := url.Parse(l.Rest)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.Opaque != "" {
		return "", fmt.Errorf("%w: of kind %s: write it like %s://HOST:PORT", ErrInvalid, l.Scheme, l.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%w: of kind %s: %s is no port", ErrInvalid, l.Scheme, port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// TakeRest removes all parameters that are left, and returns the URI with them as
// it was written, for a kind with a syntax of its own.
func (l *Location) TakeRest() string {
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
