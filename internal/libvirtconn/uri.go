package libvirtconn

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Errors of [Parse].
var (
	// ErrInvalidURI is wrapped by the errors about an invalid URI.
	ErrInvalidURI = errors.New("invalid libvirt URI")
	// ErrUnsupported is wrapped by the errors about features that libvirt has and this package lacks.
	ErrUnsupported = errors.New("not supported")
)

// Transport is the connection to libvirt.
type Transport string

// The transports.
const (
	Unix Transport = "unix"
	TLS  Transport = "tls"
	TCP  Transport = "tcp"
	SSH  Transport = "ssh"
)

// URI is a parsed connection URI. The zero value is not usable.
type URI struct {
	Transport Transport
	Host      string // a name or address, "" for Unix
	Port      string // "" for the transport's own
	User      string // of SSH, "" for ssh's default
	Session   bool   // the user's own libvirt, and not the system's

	socket   string // of libvirt, if it is not the usual one
	mode     string // which of the usual sockets: auto, legacy or direct
	name     string // the URI to open on the remote host, "" for driver and path
	pki      string // directory of the certificates
	keyFile  string // of SSH
	netcat   string // program on the remote host of SSH
	proxy    string // the program that relays the connection there: auto, native or netcat
	command  string // instead of ssh
	noVerify bool
	noTTY    bool
	text     string
}

// parameter is a parameter of a URI.
type parameter struct {
	takers []Transport
	into   any      // a *string, or a *bool for 0 and 1
	words  []string // the values that a string may have; none for any
}

func (u *URI) parameters() map[string]parameter {
	return map[string]parameter{
		"name":      {[]Transport{Unix, TLS, TCP, SSH}, &u.name, nil},
		"mode":      {[]Transport{Unix, SSH}, &u.mode, []string{"auto", "legacy", "direct"}},
		"socket":    {[]Transport{Unix, SSH}, &u.socket, nil},
		"pkipath":   {[]Transport{TLS}, &u.pki, nil},
		"no_verify": {[]Transport{TLS, SSH}, &u.noVerify, nil},
		"no_sanity": {[]Transport{TLS}, new(bool), nil}, // certificates are not checked before they are used
		"keyfile":   {[]Transport{SSH}, &u.keyFile, nil},
		"netcat":    {[]Transport{SSH}, &u.netcat, nil},
		"proxy":     {[]Transport{SSH}, &u.proxy, []string{"auto", "native", "netcat"}},
		"command":   {[]Transport{SSH}, &u.command, nil},
		"no_tty":    {[]Transport{SSH}, &u.noTTY, nil},
	}
}

// known are the parameters of libvirt that no transport here takes.
var known = []string{"tls_priority", "sshauth", "known_hosts", "known_hosts_verify", "sshconfig", "auth"}

// Parse reads a connection URI. The errors wrap [ErrInvalidURI] or
// [ErrUnsupported]. It accesses neither files nor host names.
func Parse(text string) (*URI, error) {
	from, err := url.Parse(text)
	if err != nil {
		var e *url.Error // its text has the URI, with any password in it
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("%w: %w: write it like qemu:///system or qemu+ssh://HOST/system", ErrInvalidURI, err)
	}
	u := &URI{Host: from.Hostname(), Port: from.Port(), User: from.User.Username(), text: from.Redacted()}
	driver, transport, explicit := strings.Cut(from.Scheme, "+")
	switch {
	case driver == "" || from.Opaque != "" || from.Fragment != "":
		return nil, u.invalid("write it like qemu:///system or qemu+ssh://HOST/system")
	case driver != "qemu":
		return nil, u.unsupported("libvirt's driver %q: luksplug plugs disks into VMs of QEMU", driver)
	}
	u.Transport = Transport(transport)
	if !explicit {
		u.Transport = Unix
		if u.Host != "" {
			u.Transport = TLS
		}
	}
	switch strings.TrimSuffix(from.Path, "/") {
	case "/system":
	case "/session":
		u.Session = true
	case "/embed":
		return nil, u.unsupported("an embedded driver, which exists inside of one program only")
	default:
		return nil, u.invalid("the path is %q: use /system or /session", from.Path)
	}
	if err := u.check(from); err != nil {
		return nil, err
	}
	if err := u.setParameters(from); err != nil {
		return nil, err
	}
	return u, nil
}

// check refuses unknown transports and invalid hosts.
func (u *URI) check(from *url.URL) error {
	switch u.Transport {
	case Unix:
		if u.Host != "" {
			return u.invalid("a unix socket is on this host: leave %s out, or use +ssh or +tls", u.Host)
		}
	case TLS, TCP, SSH:
		if u.Host == "" {
			return u.invalid("+%s needs a host", u.Transport)
		}
	case "libssh", "libssh2":
		return u.unsupported("the transport +%s: use +ssh", u.Transport)
	case "ext":
		return u.unsupported("the transport +ext: use +ssh with ?command=")
	default:
		return u.invalid("there is no transport +%s: use +unix, +ssh, +tls or +tcp", u.Transport)
	}
	if _, ok := from.User.Password(); ok {
		return u.invalid("it holds a password, which all users of this host could see: use a key")
	}
	if u.User != "" && u.Transport != SSH {
		return u.invalid("only +ssh takes a user")
	}
	if strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User, "-") || strings.ContainsAny(u.Host+u.User, " \t\r\n\x00") {
		return u.invalid("the host or user name is invalid")
	}
	return nil
}

// setParameters reads the parameters after the question mark.
func (u *URI) setParameters(from *url.URL) error {
	values, err := url.ParseQuery(from.RawQuery)
	if err != nil {
		return u.invalid("its parameters: %v", err)
	}
	parameters := u.parameters()
	for name, v := range values {
		p, ok := parameters[name]
		switch {
		case !ok && slices.Contains(known, name):
			return u.unsupported("the parameter %s", name)
		case !ok:
			return u.invalid("there is no parameter %s", name)
		case !slices.Contains(p.takers, u.Transport):
			return u.invalid("the parameter %s means nothing with +%s", name, u.Transport)
		case len(v) != 1 || v[0] == "":
			return u.invalid("the parameter %s needs one value", name)
		case strings.ContainsRune(v[0], 0):
			return u.invalid("the parameter %s holds a NUL character", name)
		case p.words != nil && !slices.Contains(p.words, v[0]):
			return u.invalid("the parameter %s is one of %s", name, strings.Join(p.words, ", "))
		case name == "name" && !strings.HasPrefix(v[0], "qemu:"):
			return u.unsupported("the driver of name=%s: luksplug plugs disks into VMs of QEMU", v[0])
		}
		switch into := p.into.(type) {
		case *string:
			*into = v[0]
		case *bool:
			if v[0] != "0" && v[0] != "1" {
				return u.invalid("the parameter %s is 0 or 1", name)
			}
			*into = v[0] == "1"
		}
	}
	return nil
}

// Local reports whether libvirt, and so its VMs and their files, are on this host. It returns false for a port of
// localhost, which may be a tunnel.
func (u *URI) Local() bool { return u.Transport == Unix }

// Clear reports whether the connection goes to another host without encryption.
func (u *URI) Clear() bool {
	ip := net.ParseIP(u.Host)
	return u.Transport == TCP && u.Host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// String returns the URI as it was given.
func (u *URI) String() string { return u.text }

// remote is the URI that the remote libvirt opens.
func (u *URI) remote() string {
	if u.name == "" && u.Session {
		return "qemu:///session"
	}
	return cmp.Or(u.name, "qemu:///system")
}

func (u *URI) invalid(format string, args ...any) error {
	return fmt.Errorf("%w %q: %s", ErrInvalidURI, u.text, fmt.Sprintf(format, args...))
}

func (u *URI) unsupported(format string, args ...any) error {
	return fmt.Errorf("libvirt URI %s: %w: %s", u.text, ErrUnsupported, fmt.Sprintf(format, args...))
}
