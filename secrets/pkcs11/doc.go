// Package pkcs11 is the key store of a PKCS#11 token: a smart card, a hardware
// security module, or SoftHSM. A URI of RFC 7512 names the token and the objects on
// it ([ParseURI]).
//
// The package accesses the token through a module, a C library, which requires cgo
// and the build tag pkcs11. Without them [New] returns [ErrNotBuilt].
//
// The [Options] select one of three kinds of store:
//
//	pkcs11:token=disks                     luksplug's own data objects
//	pkcs11:token=disks;object=disk-{uuid}  data objects of other programs
//	pkcs11:token=disks;object=kek          with Options.Dir: a directory of files that
//	                                       a key of the token wraps
//
// The first is a [secrets.Keeper]. Each secret has one data object (CKO_DATA) with
// the <secret> document and the CKA_LABEL "document UUID" and, if it has a value,
// another with the label "value UUID". Their CKA_APPLICATION is "luksplug N", where N
// is the generation. Because not every token can change an object, a change creates
// the next generation before it destroys the old one; the highest counts. The objects
// are private: reading them requires the PIN.
//
// The second only looks up. The URI's object is the CKA_LABEL of a data object, and
// Options.Application its CKA_APPLICATION. In both, {uuid}, {usage} and {type} are
// replaced by those of the reference.
//
// The third is a [secrets.Keeper] on a directory like that of package dir, in which
// each value is wrapped by the one secret key that the URI names. The key never
// leaves the token. A file contains, without header or trailer:
//
//	aes-gcm            an IV of 12 bytes, the value encrypted by CKM_AES_GCM, and
//	                   a tag of 16 bytes
//	aes-key-wrap-pad   RFC 5649: any length; CKM_AES_KEY_WRAP_PAD
//	aes-key-wrap       RFC 3394: multiples of 8 bytes, 16 at least; CKM_AES_KEY_WRAP
//
// aes-gcm needs a key with CKA_ENCRYPT and CKA_DECRYPT, the others one with CKA_WRAP
// and CKA_UNWRAP. Some modules, such as SoftHSM 2.6, lose the length of a value with
// aes-key-wrap-pad. Set detects this before it writes, and Lookup checks the length
// of a value that ends in zeros.
//
// A token locks itself after a few wrong PINs. A store therefore never retries a PIN
// that the token refused, and tries none if the token reports that its PIN is locked.
// Unlock has the kernel keep the PIN for all processes of the user.
// By the standard, a login holds for the whole process: as long as one session is
// open, new ones are logged in.
//
// Only one goroutine of the process calls a module at a time, because not every
// module is as thread-safe as the standard requires. A call into a module cannot be
// interrupted: after the time-out it is abandoned in its thread, and other calls of
// the module fail until it returns. A module is loaded once and never unloaded.
//
// Values and PINs pass through memory of Go's and C's that is not locked against
// swapping, and are overwritten there after use. A Store keeps the PIN that the token
// has accepted. What a module itself keeps of them is the module's; SoftHSM keeps
// nothing.
package pkcs11
