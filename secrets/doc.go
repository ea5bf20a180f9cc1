// Package secrets defines a type for secret values that does not leak them, the
// references by which disk XML names secrets, and the interfaces of key stores.
//
// A [Secret] is a byte string in memory of its own: outside the Go heap, locked
// against swapping and kept out of core files if the system allows it, and
// zeroed by [Secret.Wipe]. It prints as "[redacted]" in every fmt verb, in JSON,
// in XML and in logs, so that a forgotten debug line cannot reveal it. The bytes
// are accessible only through [Secret.Use], for the duration of one call:
//
//	err := secret.Use(func(value []byte) error {
//		return encode(wire, value) // don't keep value
//	})
//	secret.Wipe()
//
// While a process holds a Secret, it is not dumpable: the kernel writes no core
// file of it, and other processes of the same user cannot read its memory or attach
// a debugger. Wiping the last Secret restores the previous setting. A program that
// needs this for longer sets PR_SET_DUMPABLE (prctl(2)) at start, as luksplug does.
//
// Bytes are exact. This package never trims a newline, decodes base64 or assumes
// UTF-8: raw bytes mistaken for hex, or a stripped newline, are common causes of
// losing an encrypted volume.
//
// A [Reference] holds the attributes of a disk's <secret type='passphrase'
// uuid='...'/>: a type, and either a uuid or a usage. It is not secret and may be printed.
//
// A [Document] holds the content of a <secret> document: all metadata of a secret,
// without its value. [ParseDocument] and [Document.XML] read and write it.
//
// A [Store] looks up secrets by reference; a [Lister] also lists its secrets, and a
// [Keeper] also changes them. Each kind of store has a package of its own
// (secrets/dir, ...), secrets/keystore opens a store by its URI, and [Chain]
// queries several stores in order. Every store satisfies the contract at [Store],
// which the test suite internal/storetest checks.
//
// The package does not depend on QEMU or QMP.
package secrets
