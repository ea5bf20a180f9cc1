package blockgraph

import (
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/secrets"
)

// Curl is a file on a web server, which QEMU reads through libcurl.
//
//	source@protocol           -> driver http, https, ftp, ftps or tftp
//	source@name, @query, <host> -> url
//	<auth>                    -> username, password-secret
//	ssl@verify (https, ftps)  -> sslverify
//	<cookies> (http, https)   -> cookie-secret: "name=value; name=value"
//	timeout@seconds           -> timeout
//	readahead@size            -> readahead (bytes)
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsCurlHttps.
type Curl struct {
	// Scheme is the protocol.
	Scheme string
	Host   Host
	// Path is the path on the server, not escaped; Query what follows the
	// question mark, as it is.
	Path, Query string
	// Auth is nil for a server that asks for none.
	Auth *Auth
	// NoVerify takes any certificate. Verify says so that it must be a good one,
	// which QEMU asks for by itself.
	NoVerify, Verify bool
	Cookies          []Cookie
	// Timeout is in seconds, Readahead in bytes; 0 for QEMU's own.
	Timeout, Readahead uint64
}

// Cookie is <cookie>. Its value lets its holder in, and is treated as a secret.
type Cookie struct {
	Name  string
	Value SecretText
}

// curlPorts are the protocols that libcurl speaks, with their ports.
var curlPorts = map[string]uint{"http": 80, "https": 443, "ftp": 21, "ftps": 990, "tftp": 69}

// Protocol implements [Network].
func (c *Curl) Protocol() string { return c.Scheme }

func (c *Curl) String() string { return url(c.Scheme, c.Host, curlPorts[c.Scheme], c.Path) }

func (c *Curl) http() bool { return c.Scheme == "http" || c.Scheme == "https" }

func (c *Curl) validate(element string) error {
	refuse := func(part, reason string) error {
		return invalid(element+part, fmt.Sprintf("%s protocol %s: remove it", reason, c.Scheme))
	}
	_, known := curlPorts[c.Scheme]
	switch {
	case !known:
		return invalid(element+"@protocol", "unknown protocol "+c.Scheme)
	case c.Path == "":
		return invalid(element+"@name", "missing name for disk source")
	case c.Query != "" && !c.http():
		return refuse("@query", "a query has no meaning to the")
	case len(c.Cookies) > 0 && !c.http():
		return refuse("/cookies", "cookies have no meaning to the")
	case (c.Verify || c.NoVerify) && c.Scheme != "https" && c.Scheme != "ftps":
		return refuse("/ssl", "there is no certificate to verify in the")
	case c.Auth != nil && c.Scheme == "tftp":
		return refuse("/auth", "authentication is not supported for")
	}
	if err := onlyTCP(element, c.Scheme, []Host{c.Host}); err != nil {
		return err
	}
	for i, k := range c.Cookies {
		if err := k.validate(element+"/cookies/cookie", c.Cookies[:i]); err != nil {
			return err
		}
	}
	return c.Auth.validate(element, secrets.ISCSI) // libvirt looks it up as one for iscsi
}

// validate checks a cookie (RFC 6265, section 4.1.1). No error holds its value.
func (k Cookie) validate(element string, before []Cookie) error {
	switch {
	case k.Name == "":
		return invalid(element+"@name", "missing cookie name")
	case strings.ContainsAny(k.Name, "\t ()<>@,;:\\\"/[]?={}") || strings.IndexFunc(k.Name, isControl) >= 0:
		return invalid(element+"@name", fmt.Sprintf("cookie name '%s' contains invalid characters", message.Shorten(k.Name)))
	case k.Value == "":
		return invalid(element, fmt.Sprintf("missing value for cookie '%s'", message.Shorten(k.Name)))
	}
	value := string(k.Value)
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	if strings.ContainsAny(value, "\t \",;\\") || strings.IndexFunc(value, isControl) >= 0 {
		return invalid(element, fmt.Sprintf("value of cookie '%s' contains invalid characters", message.Shorten(k.Name)))
	}
	for _, other := range before {
		if other.Name == k.Name {
			return invalid(element+"@name", fmt.Sprintf("duplicate cookie '%s'", message.Shorten(k.Name)))
		}
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func (c *Curl) node(b *builder, _ *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", c.Scheme}, {"url", c.url()}}}
	b.auth(c.Auth, &o, "username", "password-secret")
	if c.Verify || c.NoVerify {
		o.Add("sslverify", c.Verify)
	}
	if len(c.Cookies) > 0 {
		pairs := make([]string, 0, len(c.Cookies))
		for _, k := range c.Cookies {
			pairs = append(pairs, k.Name+"="+string(k.Value))
		}
		id := b.secret(SecretData{Text: SecretText(strings.Join(pairs, "; "))})
		o.Add("cookie-secret", id)
		o.secrets = append(o.secrets, id)
	}
	if c.Timeout != 0 {
		o.Add("timeout", c.Timeout)
	}
	if c.Readahead != 0 {
		o.Add("readahead", c.Readahead)
	}
	return o
}

// url puts the URL together the way libvirt does, which has libxml2 escape the
// path: letters, digits and the characters below stay as they are.
func (c *Curl) url() string {
	var b strings.Builder
	b.WriteString(c.Scheme + "://" + c.Host.address(curlPorts[c.Scheme]))
	path := c.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	for i := range len(path) {
		if ch := path[i]; ch < 0x80 && (alphanumeric(rune(ch)) || strings.IndexByte("-_.!~*'()/;@&=+$,", ch) >= 0) {
			b.WriteByte(ch)
		} else {
			fmt.Fprintf(&b, "%%%02X", ch)
		}
	}
	if c.Query != "" {
		b.WriteString("?" + c.Query)
	}
	return b.String()
}
