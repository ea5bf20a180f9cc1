// Package libvirtstore is the key store for libvirt's own secrets, as defined by
// virsh secret-define and secret-set-value. It uses libvirt's remote protocol
// (https://libvirt.org/formatsecret.html, https://libvirt.org/kbase/rpc.html)
// without the C library.
//
// libvirt returns the value of a private secret (private='yes') to no client: only
// its own QEMU driver can read it. The error wraps [secrets.ErrPrivate] and names
// alternatives.
//
// Hooks must not use this store: libvirtd waits for its hook, and the hook would
// wait for libvirtd.
//
// The store looks up and lists secrets; virsh defines them.
//
// Values are taken out of libvirt's answers before the library go-libvirt, which would
// keep copies, reads them. A URI with +tcp is refused except
// for the loopback: it would send values over the network in clear.
package libvirtstore
