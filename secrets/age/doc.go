// Package age is a key store that is a directory of files encrypted with age
// (https://age-encryption.org/v1). Each secret is two files, named by its uuid:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.xml    its <secret> document, in clear
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.age    its value: the bytes, encrypted
//	recipients.txt                              to whom values are encrypted
//	identity.txt                                the key that decrypts them
//
// All are plain age: without luksplug,
//
//	age --decrypt -i identity.txt 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.age
//
// writes the value, and "age -R recipients.txt" makes such a file. A value without
// a document is a secret without usage.
//
// # Keys
//
// recipients.txt and the identity are made by the first secret that is defined,
// with mode 0600. The identity may lie elsewhere ([Options.Identity]), such as on
// a tmpfs that is filled at boot, or be missing: defining secrets needs the
// recipients only. It is an X25519 key or, with [Options.PostQuantum], a hybrid of
// that and ML-KEM-768, which age 1.3 and later read. More recipients can be added
// to recipients.txt by an editor, for the values that are set from then on; all of
// them are hybrid, or none.
//
// An identity in clear protects copies of the directory that lack it, a backup for
// instance, and nothing else. With [Options.Protect] it is itself encrypted, to a
// passphrase that is asked for at the first look-up and then not again by the same
// [Store], which remembers the opened identity. Defining and setting do not ask.
// An identity that was encrypted by "age --passphrase" works too.
//
// # What is not protected
//
// Documents are in clear. A user who may write to the directory can exchange one
// value for another, because encryption needs no secret; the directory therefore
// must belong to the caller or to root, and no other user may write to it, as with
// package dir.
// The library age keeps copies of values and keys on the Go heap, which are not
// locked in memory and go when it is collected.
//
// # Writing
//
// Files are written under a temporary name, synced and renamed, under a lock of the
// directory, so that a crash leaves each file in its old or its new form. What is damaged is
// reported with its uuid and does not keep others from being found, but for a
// look-up by usage that finds nothing: the damaged one could have been it.
package age
