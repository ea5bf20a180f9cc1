package blockgraph

import (
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/secrets"
)

// Curl is a file on a web server, which QEMU reads through libcurl.
//
//	source@protocol             -> driver http, https, ftp, ftps or tftp
//	source@name, @query, <host> -> url
//	<auth>                      -> username, password-secret
//	ssl@verify (https, ftps)    -> sslverify
//	<cookies> (http, https)     -> cookie-secret: "name=value; name=value"
//	timeout@seconds             -> timeout
//	readahead@size              -> readahead (bytes)
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsCurlHttps.
type Curl struct {
	Scheme             string // the protocol
	Host               Host
	Path, Query        string // the path on the server, not escaped; and what follows the question mark, unchanged
	Auth               *Auth  // nil for a server without a login
	NoVerify, Verify   bool   // accept any certificate, or only a valid one, which is QEMU's default too
	Cookies            []Cookie
	Timeout, Readahead uint64 // in seconds and bytes; 0 for QEMU's defaults
}

// Cookie is <cookie>. Its value grants access, so it is treated as a secret.
type Cookie struct {
	Name  string
	Value SecretText
}

// curlPorts maps the protocols of libcurl to their ports.
var curlPorts = map[string]uint{"http": 80, "https": 443, "ftp": 21, "ftps": 990, "tftp": 69}

// Protocol implements [Network].
func (c *Curl) Protocol() string { return c.Scheme }

func (c *Curl) String() string { return url(c.Scheme, c.Host, curlPorts[c.Scheme], c.Path) }

func (c *Curl) http() bool { return c.Scheme == "http" || c.Scheme == "https" }

func (c *Curl) validate(element string) error {
	_, known := curlPorts[c.Scheme]
	verify := (c.Verify || c.NoVerify) && c.Scheme != "https" && c.Scheme != "ftps"
	suffix := " protocol " + c.Scheme + ": remove it"
	if err := check([]rule{
		{!known, invalid, element + "@protocol", "unknown protocol " + c.Scheme},
		{c.Path == "", invalid, element + "@name", "missing name for disk source"},
		{c.Query != "" && !c.http(), invalid, element + "@query", "a query has no meaning to the" + suffix},
		{len(c.Cookies) > 0 && !c.http(), invalid, element + "/cookies", "cookies have no meaning to the" + suffix},
		{verify, invalid, element + "/ssl", "there is no certificate to verify in the" + suffix},
		{c.Auth != nil && c.Scheme == "tftp", invalid, element + "/auth", "authentication is not supported for" + suffix},
	}); err != nil {
		return err
	}
	if err := onlyTCP(element, c.Scheme, []Host{c.Host}); err != nil {
		return err
	}
	for i, k := range c.Cookies {
		if err := k.validate(element+"/cookies/cookie", c.Cookies[:i]); err != nil {
			return err
		}
	}
	return c.Auth.validate(element, secrets.ISCSI) // the type that libvirt looks up
}

// validate checks a cookie (RFC 6265, section 4.1.1). No error contains its value.
func (k Cookie) validate(element string, before []Cookie) error {
	name, value := message.Shorten(k.Name), string(k.Value)
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	twice := slices.ContainsFunc(before, func(o Cookie) bool { return o.Name == k.Name })
	return check([]rule{
		{k.Name == "", invalid, element + "@name", "missing cookie name"},
		{strings.ContainsAny(k.Name, "\t ()<>@,;:\\\"/[]?={}") || strings.ContainsFunc(k.Name, isControl), invalid, element + "@name",
			"cookie name '" + name + "' contains invalid characters"},
		{k.Value == "", invalid, element, "missing value for cookie '" + name + "'"},
		{strings.ContainsAny(value, "\t \",;\\") || strings.ContainsFunc(value, isControl), invalid, element,
			"value of cookie '" + name + "' contains invalid characters"},
		{twice, invalid, element + "@name", "duplicate cookie '" + name + "'"},
	})
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

// url returns the URL as libvirt builds it with libxml2, which escapes the path
// except for letters, digits and the characters below.
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
