package libvirtconn

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Errors of [Parse].
var (
	// ErrInvalidURI is wrapped by the errors about what is no URI of libvirt's.
	ErrInvalidURI = errors.New("invalid libvirt URI")
	// ErrUnsupported is wrapped by the errors about what libvirt has, and this
	// package has not.
	ErrUnsupported = errors.New("not supported")
)

// Transport is a way to reach libvirt.
type Transport string

// The transports.
const (
	Unix Transport = "unix"
	TLS  Transport = "tls"
	TCP  Transport = "tcp"
	SSH  Transport = "ssh"
)

// URI is a connection URI that was read. The zero value is not usable.
type URI struct {
	Transport Transport
	Host      string // a name or address, "" for Unix
	Port      string // "" for the transport's own
	User      string // of SSH, "" for who ssh takes
	Session   bool   // the user's own libvirt, and not the system's

	socket   string // of libvirt, where it is not the usual one
	mode     string // which of the usual sockets: auto, legacy or direct
	name     string // what the libvirt at the other end is asked for, "" for driver and path
	pki      string // folder of the certificates
	keyFile  string // of SSH
	netcat   string // program at the other end of SSH
	proxy    string // what carries the connection there: auto, native or netcat
	command  string // instead of ssh
	noVerify bool
	noTTY    bool
	text     string
}

// parameters says which transports take a parameter.
var parameters = map[string][]Transport{
	"name":      {Unix, TLS, TCP, SSH},
	"mode":      {Unix, SSH},
	"socket":    {Unix, SSH},
	"pkipath":   {TLS},
	"no_verify": {TLS, SSH},
	"no_sanity": {TLS}, // certificates are not looked at before they are used
	"keyfile":   {SSH},
	"netcat":    {SSH},
	"proxy":     {SSH},
	"command":   {SSH},
	"no_tty":    {SSH},
}

// known are the parameters of libvirt that no transport here takes.
var known = []string{"tls_priority", "sshauth", "known_hosts", "known_hosts_verify", "sshconfig", "auth"}

// Parse reads a connection URI. The errors wrap [ErrInvalidURI] or
// [ErrUnsupported]. Nothing is looked at: neither files nor names of hosts.
func Parse(text string) (*URI, error) {
	from, err := url.Parse(text)
	if err != nil {
		var e *url.Error // its text has the URI, with whatever password is in it
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("%w: %w", ErrInvalidURI, err)
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
	if err := u.parameters(from); err != nil {
		return nil, err
	}
	return u, nil
}

// check refuses transports that there are none of, and hosts that cannot be.
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
		return u.invalid("it holds a password, which everybody could see: use a key")
	}
	if u.User != "" && u.Transport != SSH {
		return u.invalid("only +ssh takes a user")
	}
	if strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User, "-") || strings.ContainsAny(u.Host+u.User, " \t\r\n\x00") {
		return u.invalid("neither a host nor a user is called so")
	}
	return nil
}

// parameters reads what follows the question mark.
func (u *URI) parameters(from *url.URL) error {
	values, err := url.ParseQuery(from.RawQuery)
	if err != nil {
		return u.invalid("its parameters: %v", err)
	}
	for name, v := range values {
		takers, ok := parameters[name]
		switch {
		case !ok && slices.Contains(known, name):
			return u.unsupported("the parameter %s", name)
		case !ok:
			return u.invalid("there is no parameter %s", name)
		case !slices.Contains(takers, u.Transport):
			return u.invalid("the parameter %s means nothing with +%s", name, u.Transport)
		case len(v) != 1 || v[0] == "":
			return u.invalid("the parameter %s needs one value", name)
		}
		if err := u.set(name, v[0]); err != nil {
			return err
		}
	}
	return nil
}

func (u *URI) set(name, value string) error {
	path := func(into *string) error {
		if strings.ContainsRune(value, 0) {
			return u.invalid("the parameter %s holds a NUL character", name)
		}
		*into = value
		return nil
	}
	number := func(into *bool) error {
		if value != "0" && value != "1" {
			return u.invalid("the parameter %s is 0 or 1", name)
		}
		*into = value == "1"
		return nil
	}
	word := func(into *string, words ...string) error {
		if !slices.Contains(words, value) {
			return u.invalid("the parameter %s is one of %s", name, strings.Join(words, ", "))
		}
		*into = value
		return nil
	}
	var ignored bool
	switch name {
	case "name":
		if !strings.HasPrefix(value, "qemu:") {
			return u.unsupported("the driver of name=%s: luksplug plugs disks into VMs of QEMU", value)
		}
		u.name = value
	case "mode":
		return word(&u.mode, "auto", "legacy", "direct")
	case "socket":
		return path(&u.socket)
	case "pkipath":
		return path(&u.pki)
	case "no_verify":
		return number(&u.noVerify)
	case "no_sanity":
		return number(&ignored)
	case "keyfile":
		return path(&u.keyFile)
	case "netcat":
		u.netcat = value
	case "proxy":
		return word(&u.proxy, "auto", "native", "netcat")
	case "command":
		u.command = value
	case "no_tty":
		return number(&u.noTTY)
	}
	return nil
}

// Local tells whether libvirt, and so its VMs and their files, are on this host. A
// host that only looks like this one, such as a port of localhost, is none: behind
// it may be a tunnel.
func (u *URI) Local() bool { return u.Transport == Unix }

// Clear tells whether the connection goes to another host without encryption.
func (u *URI) Clear() bool {
	ip := net.ParseIP(u.Host)
	return u.Transport == TCP && u.Host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// String returns the URI as it was given.
func (u *URI) String() string { return u.text }

// remote is the URI that the libvirt at the other end is asked for.
func (u *URI) remote() string {
	if u.name != "" {
		return u.name
	}
	if u.Session {
		return "qemu:///session"
	}
	return "qemu:///system"
}

func (u *URI) invalid(format string, args ...any) error {
	return fmt.Errorf("%w %s: %s", ErrInvalidURI, u.text, fmt.Sprintf(format, args...))
}

func (u *URI) unsupported(format string, args ...any) error {
	return fmt.Errorf("libvirt URI %s: %w: %s", u.text, ErrUnsupported, fmt.Sprintf(format, args...))
}
