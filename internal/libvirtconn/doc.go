// Package libvirtconn connects to libvirt by its connection URIs:
//
//	uri, err := libvirtconn.Parse("qemu+ssh://admin@vmhost/system")
//	l, closing, err := uri.Connect(ctx)
//
// The URIs are those that libvirt documents (https://libvirt.org/uri.html), as far as they lead to QEMU:
//
//	qemu:///system, qemu:///session   a unix socket of this host
//	qemu+unix:///system?socket=PATH   another one
//	qemu://HOST/system, qemu+tls://   TLS with certificates of both peers
//	qemu+ssh://USER@HOST/system       the program ssh, with the user's own keys and settings
//	qemu+tcp://HOST/system            in clear: for the host itself, and for tests
//
// Parameters and transports that libvirt knows and this package does not are refused
// by name, so that no check of a certificate is omitted silently.
//
// go-libvirt's calls on the connection take no context: a caller that must not wait for
// ever uses [Within], or closes the connection to end them.
package libvirtconn
