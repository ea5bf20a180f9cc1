// Package age is a key store in a directory of files encrypted with age
// (https://age-encryption.org/v1). Each secret has two files, named after its uuid:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.xml    its <secret> document, in clear
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.age    its value: the bytes, encrypted
//	recipients.txt                              the recipients of all values
//	identity.txt                                the key that decrypts them
//
// age(1) reads and writes these files without luksplug:
//
//	age --decrypt -i identity.txt 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.age
//
// writes the value, and "age -R recipients.txt" encrypts a new one. A value without a
// document is a secret without usage.
//
// # Keys
//
// The first Define creates recipients.txt and the identity, with mode 0600. The
// identity may be in another directory ([Options.Identity]), such as a tmpfs that is
// filled at boot, or be missing: defining secrets needs only the recipients. It is an
// X25519 key or, with [Options.PostQuantum], a hybrid of that and ML-KEM-768, which
// age 1.3 and later read. Recipients can be added to recipients.txt with an editor, for
// values that are set later; either all of them are hybrid, or none.
//
// An identity in clear protects only copies of the directory without it, such as a
// backup. With [Options.Protect] the identity is encrypted with a passphrase. The first
// look-up of a [Store] asks for the passphrase, and the Store keeps the decrypted
// identity. After [Store.Unlock] the kernel keeps it for all processes of the user, and no
// Store asks. Define and Set do not ask once recipients.txt exists. An identity that
// "age --passphrase" encrypted works too.
//
// # Limits of the protection
//
// Documents are in clear. A user who may write to the directory can replace a value by
// another, because encryption needs no secret; the directory must therefore belong to
// the caller or to root, and no other user may write to it, as with package dir.
//
// No copy of a value, or of the identity's passphrase, outlives its use. The keys of
// the identity do: a Store keeps them on the Go heap, not locked in memory, and the
// age library leaves copies there.
//
// # Writing
//
// A file is written under a temporary name, synced and renamed, with a lock on the
// directory, so that a crash leaves its old or its new content. A damaged document is
// reported with its uuid and does not hide other secrets. But a look-up by usage that
// finds no secret fails if a document is damaged, which may have that usage.
package age
