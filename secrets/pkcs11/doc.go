// Package pkcs11 is the key store of a token that speaks PKCS#11: a smart card, a
// hardware security module, or SoftHSM. A URI of RFC 7512 names the token
// and the objects on it ([ParseURI]).
//
// The token is reached through a module, a C library, so that this needs cgo and
// the build tag pkcs11. Without them [New] returns [ErrNotBuilt]; the rest of the
// package is the same.
//
// There are three kinds of store, by what the [Options] say:
//
//	pkcs11:token=disks                     data objects of luksplug's own
//	pkcs11:token=disks;object=disk-{uuid}  data objects that others have made
//	pkcs11:token=disks;object=kek          with Options.Folder: a directory with files
//	                                       that a key of the token has wrapped
//
// The first is a [secrets.Keeper]. Each secret is one data object (CKO_DATA) with
// the <secret> document, whose CKA_LABEL is "document UUID", and, where it has a
// value, one whose label is "value UUID". Their CKA_APPLICATION is "luksplug N":
// N is the generation, of which the highest counts, because not every token can
// change an object. A new one is made before the old one is destroyed. They are
// private: they cannot be seen without the PIN.
//
// The second looks up only. The URI's object is the CKA_LABEL of a data object, and
// Options.Application its CKA_APPLICATION. In both {uuid}, {usage} and {type}
// stand for those of the reference.
//
// The third is a [secrets.Keeper] on a directory like that of package dir, in which
// each value is wrapped by the one secret key that the URI names. The key never
// leaves the token. A file is, without any head or end:
//
//	aes-gcm            an IV of 12 bytes, then what CKM_AES_GCM has made of the
//	                   value, then a tag of 16 bytes
//	aes-key-wrap-pad   RFC 5649: any length; CKM_AES_KEY_WRAP_PAD
//	aes-key-wrap       RFC 3394: multiples of 8 bytes, 16 at least; CKM_AES_KEY_WRAP
//
// The first needs a key with CKA_ENCRYPT and CKA_DECRYPT, the others one with
// CKA_WRAP and CKA_UNWRAP. There are modules that lose the length of a value by
// aes-key-wrap-pad, SoftHSM 2.6 for one; that is found out before anything is
// written, and where a value ends in zeros, before it is used.
//
// A token locks itself after a few wrong PINs. So one that it has refused is not
// shown to it again by the same store, and none is tried where it says that its PIN
// is locked. A login is of the whole process, by the standard: a session that is
// open lets others in.
//
// A module is called by one goroutine at a time, in all stores of the process: not
// every module is as safe for threads as the standard demands. A call into a
// module cannot be interrupted: if it does not return in time, it is left behind in a
// thread of its own, and no other call is made. A module is loaded once and stays. Values
// and the PIN are on the Go heap and in the module's memory for a while, not locked
// there.
package pkcs11
