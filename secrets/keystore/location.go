package keystore

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

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

func parse(uri string) (*Location, error) {
	scheme, rest, found := strings.Cut(uri, ":")
	if !found {
		return nil, fmt.Errorf("%w: it has no scheme: for a folder write dir:PATH", ErrInvalidURI)
	}
	rest, query, _ := strings.Cut(rest, "?")
	if strings.Contains(rest, "#") || strings.Contains(query, "#") {
		return nil, fmt.Errorf("%w: of kind %s: a # in it is written %%23", ErrInvalidURI, scheme)
	}
	// Its error would say the value, which may be a password.
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind %s: what follows the ? is PARAMETER=VALUE&..., with %% only before two hexadecimal digits", ErrInvalidURI, scheme)
	}
	for name, values := range parameters {
		if len(values) > 1 {
			return nil, fmt.Errorf("%w: of kind %s: parameter %q is given %d times", ErrInvalidURI, scheme, name, len(values))
		}
	}
	return &Location{Scheme: scheme, Rest: rest, parameters: parameters, query: query}, nil
}

// Path returns Rest, decoded, as the path of what the argument says ("a folder").
// An empty one is an error.
func (l *Location) Path(what string) (string, error) {
	path, err := url.PathUnescape(l.Rest)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: of kind %s: a %% stands before two hexadecimal digits; the sign itself is %%25", ErrInvalidURI, l.Scheme)
	case path == "":
		return "", fmt.Errorf("%w: %s: is followed by the path of %s", ErrInvalidURI, l.Scheme, what)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%w: of kind %s: the path holds a NUL character", ErrInvalidURI, l.Scheme)
	}
	return path, nil
}

// nothing refuses a Rest, for a kind of which there is one place only.
func (l *Location) nothing() error {
	if l.Rest != "" {
		return fmt.Errorf("%w: %s: is followed by nothing but parameters", ErrInvalidURI, l.Scheme)
	}
	return nil
}

// Take takes a parameter out; "" where it was not given.
func (l *Location) Take(name string) string {
	value := l.parameters.Get(name)
	l.parameters.Del(name)
	return value
}

// TakeDuration takes out a parameter that is a time, such as 5s; otherwise where
// it was not given. It is more than nothing.
func (l *Location) TakeDuration(name string, otherwise time.Duration) (time.Duration, error) {
	value := l.Take(name)
	if value == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%w: of kind %s: %s=%s is not a time: write it like %s=5s", ErrInvalidURI, l.Scheme, name, value, name)
	}
	return d, nil
}

// TakeOne takes out a parameter that has one of the given values; the first of
// them where it was not given.
func (l *Location) TakeOne(name string, values ...string) (string, error) {
	value := l.Take(name)
	switch {
	case value == "":
		return values[0], nil
	case !slices.Contains(values, value):
		return "", fmt.Errorf("%w: of kind %s: %s=%s is not known: use %s", ErrInvalidURI, l.Scheme, name, value, strings.Join(values, ", "))
	}
	return value, nil
}

// finish refuses the parameters that nobody has taken.
func (l *Location) finish() error {
	if len(l.parameters) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(l.parameters))
	return fmt.Errorf("%w: of kind %s: unknown parameter %s", ErrInvalidURI, l.Scheme, strings.Join(names, ", "))
}
