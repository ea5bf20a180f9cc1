package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrInvalidURI is wrapped by the errors of [ParseURI].
var ErrInvalidURI = errors.New("invalid PKCS#11 URI")

// URI is a PKCS#11 URI (RFC 7512). The zero value names any token. It holds nothing
// secret: a PIN in a URI is refused.
type URI struct{ path, query map[string]string }

// The attributes, in the order in which they are written (section 2.3).
func pathAttributes() []string {
	return []string{
		"library-manufacturer", "library-description", "library-version", "slot-manufacturer", "slot-description", "slot-id",
		"manufacturer", "model", "serial", "token", "type", "object", "id",
	}
}

func queryAttributes() []string { return []string{"module-name", "module-path", "pin-source"} }

// The characters besides letters and digits that a value may have as they are. The
// braces, which RFC 7512 wants encoded, are read and written as they are: they
// are those of templates.
const (
	pathChars  = "-._~:[]@!$'()*+,=&{}"
	queryChars = "-._~:[]@!$'()*+,=/?|{}"
)

// ParseURI reads a URI of RFC 7512. Attributes that are not known or given twice
// are refused, vendor-specific ones too. So is pin-value: the command line and
// files of configuration are read by others. pin-source is a file, by its path or
// as file: URI, or fd:N; not a command. Errors wrap [ErrInvalidURI] and hold no
// value of the query.
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
			return nil, fmt.Errorf("%w: a PIN in a URI is seen by everybody on the host: put it into a file and use pin-source", ErrInvalidURI)
		case !found:
			return nil, fmt.Errorf("%w: its attributes are NAME=VALUE, with %q between them", ErrInvalidURI, separator)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("%w: unknown attribute %q: known here are %s", ErrInvalidURI, name, strings.Join(known, ", "))
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%w: attribute %s is given twice", ErrInvalidURI, name)
		}
		decoded, err := url.PathUnescape(value)
		if err != nil || strings.ContainsFunc(value, func(r rune) bool { return r != '%' && !allowed(r, chars) }) {
			return nil, fmt.Errorf("%w: attribute %s: write what is not a letter or digit as %% and two hexadecimal digits", ErrInvalidURI, name)
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
			return fmt.Errorf("%w: slot-id is a decimal number", ErrInvalidURI)
		}
		u.path["slot-id"] = strconv.FormatUint(n, 10)
	}
	if v, found := u.path["library-version"]; found {
		major, minor, dotted := strings.Cut(v, ".")
		if _, err := strconv.ParseUint(major, 10, 8); err != nil {
			return fmt.Errorf("%w: library-version is a number, or two with a dot between them", ErrInvalidURI)
		}
		if _, err := strconv.ParseUint(minor, 10, 8); dotted && err != nil {
			return fmt.Errorf("%w: library-version is a number, or two with a dot between them", ErrInvalidURI)
		}
	}
	if t, found := u.path["type"]; found && t != "data" && t != "secret-key" {
		return fmt.Errorf("%w: type is data or secret-key here", ErrInvalidURI)
	}
	for _, name := range []string{"module-path", "module-name", "pin-source"} {
		if v, found := u.query[name]; found && (v == "" || strings.ContainsRune(v, 0)) {
			return fmt.Errorf("%w: %s is empty or holds a NUL character", ErrInvalidURI, name)
		}
	}
	if path, found := u.query["module-path"]; found && !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: module-path is an absolute path: a module is code that is run", ErrInvalidURI)
	}
	if name := u.query["module-name"]; strings.ContainsAny(name, "/.") {
		return fmt.Errorf("%w: module-name is without directory and .so: use module-path", ErrInvalidURI)
	}
	if strings.HasPrefix(u.query["pin-source"], "|") {
		return fmt.Errorf("%w: pin-source is a file or fd:N: commands are not run", ErrInvalidURI)
	}
	return checkTemplate(u.path["object"])
}

// PINSource returns where the PIN is, as package passphrase's Open takes it: a path
// or "fd:N"; "" where the URI does not say.
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

// Names reports whether the URI names one object or key, and not all of a token.
func (u URI) Names() bool { return u.path["object"] != "" || u.path["id"] != "" }

// String returns the URI in the order and spelling of this package.
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
