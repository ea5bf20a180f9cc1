// Package secrets holds what luksplug needs to know about secrets: a value
// type that does not leak, the references by which disk XML names secrets, and
// the interface behind which key stores live.
//
// A [Secret] is a byte string of its own memory: outside the Go heap, locked
// against swapping and kept out of core files where the system allows it,
// zeroed by [Secret.Wipe]. It prints as "[redacted]" in every fmt verb, in JSON,
// in XML and in logs, so that a forgotten debug line cannot give it away. The
// bytes are reachable through [Secret.Use] only, for the time of one call:
//
//	err := secret.Use(func(value []byte) error {
//		return encode(wire, value) // don't keep value
//	})
//	secret.Wipe()
//
// While a process holds a Secret, it cannot be dumped: there are no core files of
// it, and other processes of the same user cannot read its memory, nor attach a
// debugger. When the last one is wiped it is as it was. A program that wants this
// for longer sets PR_SET_DUMPABLE (prctl(2)) at its start, as luksplug does.
//
// Bytes are exact. Nothing here trims a newline, decodes base64 or assumes
// UTF-8: raw bytes taken for hex, or a stripped newline, are the classic ways to
// lose an encrypted volume.
//
// A [Reference] is what a disk's <secret type='passphrase' uuid='...'/> says: a
// type, and either a uuid or a usage. It holds no secret and may be printed.
//
// A [Document] is what a <secret> document says: all that is known of a secret
// but its value; [ParseDocument] and [Document.XML] read and write it.
//
// A [Store] looks up secrets by reference; a [Lister] lists its secrets, and a
// [Keeper] can be changed. Each kind of store has a package of its own
// (secrets/dir, ...), secrets/keystore opens a store by its URI, and [Chain]
// queries several stores in order. Every store satisfies the contract at [Store],
// which the test suite internal/storetest checks.
//
// The package knows nothing about QEMU or QMP.
package secrets
