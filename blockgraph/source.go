package blockgraph

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/secrets"
)

// SourceKind is the type attribute of a <disk>, <backingStore>, <dataStore> or
// <header>.
type SourceKind string

// The kinds of sources.
const (
	SourceFile      SourceKind = "file"
	SourceBlock     SourceKind = "block"
	SourceDir       SourceKind = "dir"
	SourceNetwork   SourceKind = "network"
	SourceVolume    SourceKind = "volume"
	SourceNVMe      SourceKind = "nvme"
	SourceVHostUser SourceKind = "vhostuser"
	SourceVHostVDPA SourceKind = "vhostvdpa"
)

// Source is where the bytes of an image come from.
type Source struct {
	Kind SourceKind
	// Path is the absolute path on the machine that runs QEMU: of the file, block device,
	// directory, vhost-vdpa device, or socket of a vhost-user server. It is empty for all
	// other kinds.
	Path         string
	Network      Network       // the server of a SourceNetwork
	Volume       *Volume       // the volume of a SourceVolume, see [Disk.Translate]
	NVMe         *NVMe         // the drive of a SourceNVMe
	Reconnect    uint          // seconds until QEMU reconnects to a vhost-user server; 0 for never
	Reservations *Reservations // of a LUN
	Slice        *Slice        // the part of the source that contains the image, nil for all of it
}

// Slice is <slice type='storage'>, in bytes.
type Slice struct {
	Offset, Size uint64
}

// Network is a source on a server: [*NBD], [*ISCSI], [*RBD], [*Curl], [*SSH],
// [*NFS], [*Gluster] or [*VxHS].
type Network interface {
	// Protocol is source@protocol.
	Protocol() string
	// String names the source in messages, like a URL. It holds no secret.
	String() string

	// validate refuses values that libvirt or QEMU refuses; element is the path of the <source>.
	validate(element string) error
	// node returns the protocol's own options of a block node, driver first.
	node(b *builder, enc *Encryption) nodeOptions
}

// nodeOptions are the options of a node that is being built, and the objects that they name.
type nodeOptions struct {
	Object
	secrets []string // read as the node opens
	objects []string // used as long as the node exists
}

// Host is <host>: a server by name and port, or a socket of the machine that
// runs QEMU.
type Host struct {
	Name string
	Port uint // 0 for the protocol's own
	// Socket is the path of a UNIX socket; Name and Port are then empty.
	Socket string
}

// port returns the port as text, for QEMU.
func (h Host) port(otherwise uint) string {
	return strconv.FormatUint(uint64(cmp.Or(h.Port, otherwise)), 10)
}

// address returns host:port, with brackets around an IPv6 address.
func (h Host) address(otherwise uint) string { return net.JoinHostPort(h.Name, h.port(otherwise)) }

// inet returns QEMU's InetSocketAddress, without the type that only a
// SocketAddress has.
func (h Host) inet(otherwise uint) Object {
	return Object{{"host", h.Name}, {"port", h.port(otherwise)}}
}

// socket returns QEMU's SocketAddress.
func (h Host) socket(otherwise uint) Object {
	if h.Socket != "" {
		return Object{{"type", "unix"}, {"path", h.Socket}}
	}
	return append(Object{{"type", "inet"}}, h.inet(otherwise)...)
}

// Auth is <auth>: the user and secret of a login to a server.
type Auth struct {
	User   string
	Secret secrets.Reference
}

// TLS is source@tls and the client's credentials. Only Hostname is in the XML: libvirt reads the
// rest from its configuration, and has no pre-shared keys.
type TLS struct {
	Hostname string             // the name in the server's certificate, "" for the host's
	Dir      string             // with the client's certificates, on the VM's host; "" for [DefaultTLSDir]
	Key      *secrets.Reference // the secret that decrypts the client's private key, nil for an unencrypted one
	// PSKUser is the user whose pre-shared key in the directory replaces certificates
	// (RFC 4279, QEMU's docs/system/tls), "" for certificates.
	PSKUser string
}

// DefaultTLSDir is libvirt's default directory of certificates (qemu.conf,
// default_tls_x509_cert_dir).
const DefaultTLSDir = "/etc/pki/qemu"

// Local reports whether the source is a whole file or block device on the machine that runs QEMU.
func (s Source) Local() bool {
	return (s.Kind == SourceFile || s.Kind == SourceBlock) && s.Slice == nil
}

// String names the source in messages. It holds no secret.
func (s Source) String() string {
	text := s.Path
	switch {
	case s.Kind == SourceNetwork && s.Network != nil:
		text = s.Network.String()
	case s.Kind == SourceVolume && s.Volume != nil:
		text = fmt.Sprintf("volume %s of pool %s", s.Volume.Name, s.Volume.Pool)
	case s.Kind == SourceNVMe && s.NVMe != nil:
		text = "nvme://" + s.NVMe.Device + "/" + strconv.FormatUint(s.NVMe.Namespace, 10)
	}
	if s.Slice != nil {
		text += fmt.Sprintf(" (%d bytes at %d)", s.Slice.Size, s.Slice.Offset)
	}
	return text
}

// url returns a URL for messages.
func url(scheme string, host Host, port uint, path string) string {
	if host.Socket != "" {
		return scheme + "+unix://" + host.Socket + ":/" + strings.TrimPrefix(path, "/")
	}
	return scheme + "://" + host.address(port) + "/" + strings.TrimPrefix(path, "/")
}

// onlyTCP refuses the transport='unix' of a protocol that has none.
func onlyTCP(element, protocol string, hosts []Host) error {
	socket := slices.ContainsFunc(hosts, func(h Host) bool { return h.Socket != "" })
	return check([]rule{{socket, invalid, element + "/host@transport", "only TCP can be used with the protocol " + protocol}})
}

// validate checks a login: each protocol takes one type of secret.
func (a *Auth) validate(element string, want secrets.Type) error {
	if a == nil {
		return nil
	}
	if err := check([]rule{
		{a.User == "", invalid, element + "/auth@username", "missing username for auth"},
		{a.Secret.Type != want, invalid, element + "/auth/secret@type", fmt.Sprintf("invalid secret type '%s': use type='%s'", a.Secret.Type, want)},
	}); err != nil {
		return err
	}
	if err := a.Secret.Validate(); err != nil {
		return invalid(element+"/auth/secret", err.Error())
	}
	return nil
}

// withoutSlice is String without the slice.
func (s Source) withoutSlice() string {
	s.Slice = nil
	return s.String()
}

// validate checks the credentials of a client.
func (t *TLS) validate(element string) error {
	if t == nil {
		return nil
	}
	if t.PSKUser != "" && (t.Key != nil || t.Hostname != "") {
		return invalid(element+"@tls", "a pre-shared key replaces certificates: the name in one, tlsHostname, and a secret for its key have no effect")
	}
	if t.Key == nil {
		return nil
	}
	if t.Key.Type != secrets.TLS {
		return invalid(element+"@tls", "the key of a client's certificate is decrypted by a secret of the type tls")
	}
	if err := t.Key.Validate(); err != nil {
		return invalid(element+"@tls", err.Error())
	}
	return nil
}

// TLS returns the client's settings for the source, nil for an unencrypted connection.
func (s Source) TLS() *TLS {
	switch n := s.Network.(type) {
	case *NBD:
		return n.TLS
	case *VxHS:
		return n.TLS
	}
	return nil
}

// Auth returns the login to the source's server, nil where there is none.
func (s Source) Auth() *Auth {
	switch n := s.Network.(type) {
	case *ISCSI:
		return n.Auth
	case *RBD:
		return n.Auth
	case *Curl:
		return n.Auth
	}
	return nil
}
