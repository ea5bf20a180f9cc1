// Package libvirtconn connects to libvirt by its connection URIs:
//
//	uri, err := libvirtconn.Parse("qemu+ssh://admin@vmhost/system")
//	l, closing, err := uri.Connect(ctx)
//
// The URIs are those that libvirt documents (https://libvirt.org/uri.html), as far
// as they lead to QEMU:
//
//	qemu:///system, qemu:///session   a unix socket of this host
//	qemu+unix:///system?socket=PATH   another one
//	qemu://HOST/system, qemu+tls://   TLS with certificates of both sides
//	qemu+ssh://USER@HOST/system       the program ssh, with the user's own keys and settings
//	qemu+tcp://HOST/system            in clear: for the host itself, and for tests
//
// Parameters that libvirt knows and this package does not are refused by name, and
// so are transports: nobody believes that a certificate was checked which was not.
//
// What travels on the connection is go-libvirt's business. Its calls know no
// context: a caller that must not wait for ever runs them in a goroutine, and
// closes the connection to end them.
package libvirtconn
