// Package libvirtstore is the key store of libvirt itself: the secrets that
// virsh secret-define and secret-set-value have put there, looked up by libvirt's
// remote protocol (https://libvirt.org/formatsecret.html,
// https://libvirt.org/kbase/rpc.html), without its C library.
//
// libvirt gives the value of a private secret (private='yes') to no client at
// all: only its own QEMU driver has it. The error wraps
// [secrets.ErrPrivate] and says what can be done instead.
//
// Hooks must not use this store: libvirtd waits for its hook, and the hook would
// wait for libvirtd.
//
// The store looks up and lists secrets; virsh defines them.
//
// The library go-libvirt keeps copies of values on the Go heap, which are not
// locked in memory and go when it is collected. A URI with +tcp is refused but for
// the loopback: it would send values over the network in clear.
package libvirtstore
