// Package storeuri parses the URI of a key store: SCHEME:REST?PARAMETER=VALUE&...
// Each kind of store has a function Open that returns the store of a [Location];
// package keystore selects it by the scheme.
//
// Errors wrap [ErrInvalid]. They never contain a value that may be a password.
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/luksplug/luksplug/internal/certfile"
	"github.com/luksplug/luksplug/internal/duration"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// ErrInvalid is the error for a URI that is invalid for a key store or for its kind.
var ErrInvalid = errors.New("invalid key store URI")

// Options are what stores may need from the program that opens them. With the zero
// value, a store cannot prompt for a passphrase.
type Options struct {
	// Prompt asks the user for the passphrase of a store; question names it, without a colon. If Prompt is nil, the
	// store fails with [secrets.ErrLocked].
	Prompt func(ctx context.Context, question string) (*secrets.Secret, error)
	// ReadPassphrase reads the passphrase of a store from the source in its URI:
	// a file, or fd:N. nil means package passphrase.
	ReadPassphrase func(source string) (*secrets.Secret, error)
	// Stderr receives the standard error of programs that a store runs; nil
	// discards it.
	Stderr io.Writer
	// VM returns the UUID of the VM whose disk needs the secret, or "" for no VM.
	// It is called at each look-up. nil means no VM.
	VM func() string
	// Owner returns an error if the keys of that VM belong to another VM with its UUID.
	// nil means no check.
	Owner func() error
}

// Source returns a function that reads a passphrase or token from a file or fd:N;
// nil for "". A file is read at each call, since tokens are renewed; a descriptor
// can be read only once, so its bytes are kept.
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

// Once is like [Options.Source], but also reads a file only once: a new passphrase
// is requested twice.
func (o Options) Once(source string) func() (*secrets.Secret, error) { return once(o.reader(source)) }

func (o Options) reader(source string) func() (*secrets.Secret, error) {
	if o.ReadPassphrase != nil {
		return func() (*secrets.Secret, error) { return o.ReadPassphrase(source) }
	}
	return func() (*secrets.Secret, error) { return passphrase.Open(source, nil) }
}

// once returns a function that returns a copy of the first result of read.
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

// Location is a parsed URI of a key store. Each kind of store removes the
// parameters that it supports.
type Location struct {
	Scheme string
	// Rest is the text between the scheme's colon and the "?", still
	// percent-encoded.
	Rest string

	parameters url.Values
	query      string // still percent-encoded
}

// Parse parses a URI.
func Parse(uri string) (*Location, error) {
	scheme, rest, found := strings.Cut(uri, ":")
	if !found {
		return nil, fmt.Errorf("%w: it has no scheme: for a directory write dir:PATH", ErrInvalid)
	}
	rest, query, _ := strings.Cut(rest, "?")
	if strings.Contains(rest, "#") || strings.Contains(query, "#") {
		return nil, fmt.Errorf("%w: of kind %s: write a # as %%23", ErrInvalid, scheme)
	}
	// The error of url.ParseQuery would quote the value, which may be a password.
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: write ?PARAMETER=VALUE&..., with %% only before two hexadecimal digits", ErrInvalid, scheme)
	}
	for name, values := range parameters {
		if len(values) > 1 {
			return nil, fmt.Errorf("%w: of kind %s: parameter %q is given %d times", ErrInvalid, scheme, name, len(values))
		}
	}
	return &Location{Scheme: scheme, Rest: rest, parameters: parameters, query: query}, nil
}

// Path returns the decoded Rest as a path; what describes the path in errors ("a
// directory"). An empty path is an error.
func (l *Location) Path(what string) (string, error) {
	path, err := url.PathUnescape(l.Rest)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: of kind %s: a %% must be followed by two hexadecimal digits: write the sign itself as %%25", ErrInvalid, l.Scheme)
	case path == "":
		return "", fmt.Errorf("%w: %s: must be followed by the path of %s", ErrInvalid, l.Scheme, what)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%w: of kind %s: the path contains a NUL character", ErrInvalid, l.Scheme)
	}
	return path, nil
}

// Nothing returns an error unless Rest is empty, for a kind without Rest.
func (l *Location) Nothing() error {
	if l.Rest != "" {
		return fmt.Errorf("%w: %s: may be followed only by parameters", ErrInvalid, l.Scheme)
	}
	return nil
}

// Take removes a parameter and returns its value; "" if it was not given.
func (l *Location) Take(name string) string {
	value := l.parameters.Get(name)
	l.parameters.Del(name)
	return value
}

// TakeDuration removes a parameter that is a duration greater than 0, such as 5s, or a number
// of seconds, and returns it; the value of otherwise if it was not given.
func (l *Location) TakeDuration(name string, otherwise time.Duration) (time.Duration, error) {
	value := l.Take(name)
	if value == "" {
		return otherwise, nil
	}
	d, err := duration.Parse(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%w: of kind %s: %s=%s is not a positive duration: write it like %s=5s", ErrInvalid, l.Scheme, name, value, name)
	}
	return d, nil
}

// TakeOne removes a parameter that must be one of the given values and returns it;
// the first value if it was not given.
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
		return nil, fmt.Errorf("%w: of kind %s: the URL is invalid: write it like https://HOST:PORT/", ErrInvalid, l.Scheme)
	}
	return u, nil
}

// TakeRoots removes the parameter ca-file and returns the certificates in that
// file; nil if it was not given.
func (l *Location) TakeRoots() (*x509.CertPool, error) {
	path := l.Take("ca-file")
	if path == "" {
		return nil, nil
	}
	text, err := certfile.Read(path)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %w", ErrInvalid, l.Scheme, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%w: of kind %s: ca-file: %s contains no certificate in PEM", ErrInvalid, l.Scheme, path)
	}
	return pool, nil
}

// HostPort returns HOST:PORT for a Rest that is the address of a server,
// //HOST:PORT, optionally with the path /. port is the default port.
func (l *Location) HostPort(port string) (string, error) {
	// The error of url.Parse could quote a password.
	u, err := url.Parse(l.Rest)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.Opaque != "" {
		return "", fmt.Errorf("%w: of kind %s: write it like %s://HOST:PORT", ErrInvalid, l.Scheme, l.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%w: of kind %s: %s is not a port", ErrInvalid, l.Scheme, port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// TakeRest removes all remaining parameters and returns the URI with them, still
// percent-encoded, for a kind with a syntax of its own.
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
