package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrInvalidURI is wrapped by the errors of [ParseURI], and by those of [New] for a URI.
var ErrInvalidURI = errors.New("invalid PKCS#11 URI")

// URI is a PKCS#11 URI (RFC 7512). The zero value matches any token. It contains no
// secret: [ParseURI] refuses a PIN.
type URI struct{ path, query map[string]string }

// The attributes, in the order that String writes (section 2.3).
func pathAttributes() []string {
	return []string{
		"library-manufacturer", "library-description", "library-version", "slot-manufacturer", "slot-description", "slot-id",
		"manufacturer", "model", "serial", "token", "type", "object", "id",
	}
}

func queryAttributes() []string { return []string{"module-name", "module-path", "pin-source"} }

// The characters that a value may contain unencoded, in addition to letters and
// digits. The braces of templates are unencoded too, unlike in RFC 7512.
const (
	pathChars  = "-._~:[]@!$'()*+,=&{}"
	queryChars = "-._~:[]@!$'()*+,=/?|{}"
)

// ParseURI parses a URI of RFC 7512. It refuses attributes that are unknown, which
// includes vendor-specific ones, or given twice, and pin-value, because other users
// can read command lines and configuration files. pin-source is a path, a file: URI
// or fd:N, not a command. Errors wrap [ErrInvalidURI] and contain no value of the
// query.
func ParseURI(s string) (URI, error) {
	rest, found := strings.CutPrefix(s, "pkcs11:")
	if !found {
		return URI{}, fmt.Errorf("%w: write it like pkcs11:token=NAME", ErrInvalidURI)
	}
	path, query, _ := strings.Cut(rest, "?")
	var u URI
	var err error
	if u.path, err = parseAttributes(path, ";", pathChars, pathAttributes()); err != nil {
		return URI{}, err
	}
	if u.query, err = parseAttributes(query, "&", queryChars, queryAttributes()); err != nil {
		return URI{}, err
	}
	return u, u.check()
}

func parseAttributes(text, separator, chars string, known []string) (map[string]string, error) {
	out := map[string]string{}
	if text == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(text, separator) {
		name, value, found := strings.Cut(part, "=")
		switch {
		case name == "pin-value":
			return nil, fmt.Errorf("%w: every user of the host can see a PIN in a URI: put it into a file and use pin-source", ErrInvalidURI)
		case !found:
			return nil, fmt.Errorf("%w: write its attributes as NAME=VALUE, separated by %q", ErrInvalidURI, separator)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("%w: unknown attribute %q: the known attributes are %s", ErrInvalidURI, name, strings.Join(known, ", "))
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%w: attribute %s is given twice", ErrInvalidURI, name)
		}
		decoded, err := url.PathUnescape(value)
		if err != nil || strings.ContainsFunc(value, func(r rune) bool { return r != '%' && !allowed(r, chars) }) {
			return nil, fmt.Errorf("%w: attribute %s: write characters other than letters and digits as %% and two hexadecimal digits", ErrInvalidURI, name)
		}
		out[name] = decoded
	}
	return out, nil
}

func allowed(r rune, chars string) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(chars, r)
}

func (u URI) check() error {
	if id, found := u.path["slot-id"]; found {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: slot-id must be a decimal number", ErrInvalidURI)
		}
		u.path["slot-id"] = strconv.FormatUint(n, 10)
	}
	if v, found := u.path["library-version"]; found {
		major, minor, dotted := strings.Cut(v, ".")
		if _, err := strconv.ParseUint(major, 10, 8); err != nil {
			return fmt.Errorf("%w: library-version must be a number, or two separated by a dot", ErrInvalidURI)
		}
		if _, err := strconv.ParseUint(minor, 10, 8); dotted && err != nil {
			return fmt.Errorf("%w: library-version must be a number, or two separated by a dot", ErrInvalidURI)
		}
	}
	if t, found := u.path["type"]; found && t != "data" && t != "secret-key" {
		return fmt.Errorf("%w: type must be data or secret-key", ErrInvalidURI)
	}
	for _, name := range []string{"module-path", "module-name", "pin-source"} {
		if v, found := u.query[name]; found && (v == "" || strings.ContainsRune(v, 0)) {
			return fmt.Errorf("%w: %s is empty or holds a NUL character", ErrInvalidURI, name)
		}
	}
	if path, found := u.query["module-path"]; found && !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: module-path must be an absolute path, because luksplug runs the code of a module", ErrInvalidURI)
	}
	if name := u.query["module-name"]; strings.ContainsAny(name, "/.") {
		return fmt.Errorf("%w: module-name must not contain a directory or .so: use module-path", ErrInvalidURI)
	}
	if strings.HasPrefix(u.query["pin-source"], "|") {
		return fmt.Errorf("%w: pin-source must be a file or fd:N: luksplug runs no command", ErrInvalidURI)
	}
	return checkTemplate(u.path["object"])
}

// PINSource returns the source of the PIN for Open of package passphrase: a path or
// "fd:N"; "" if the URI has none.
func (u URI) PINSource() string {
	source := u.query["pin-source"]
	if rest, is := strings.CutPrefix(source, "file:"); is {
		if path, local := strings.CutPrefix(rest, "//"); local && strings.HasPrefix(path, "/") {
			rest = path // file:///PATH, RFC 8089
		}
		source = rest
	}
	return source
}

// Names reports whether the URI names an object or key, and not only a token.
func (u URI) Names() bool { return u.path["object"] != "" || u.path["id"] != "" }

// String returns the canonical form of the URI.
func (u URI) String() string {
	out := "pkcs11:" + join(u.path, pathAttributes(), ";", pathChars)
	if query := join(u.query, queryAttributes(), "&", queryChars); query != "" {
		out += "?" + query
	}
	return out
}

func join(values map[string]string, order []string, separator, chars string) string {
	var parts []string
	for _, name := range order {
		if value, found := values[name]; found {
			parts = append(parts, name+"="+escape(value, chars))
		}
	}
	return strings.Join(parts, separator)
}

func escape(value, chars string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c < 0x80 && allowed(rune(c), chars) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
