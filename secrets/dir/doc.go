// Package dir is the simplest key store: a directory with one file per secret, which
// contains exactly the secret's bytes. It suits a tmpfs, provisioning tools and
// tests. Only file permissions protect the secrets.
//
// A file is named after the uuid, 36 characters in lower case, or after the usage
// type and usage, as [FileName] encodes them:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	volume-%2Fvar%2Flib%2Fimages%2Fvm1.img
//	ceph-client.libvirt
//
// A provisioning tool needs to know no more. A secret that luksplug defined also has
// a document ([secrets.Document.XML]) next to its value, and Lookup finds it by uuid
// and by the document's usage:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.xml
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//
// Files that other users could read or replace are refused: package
// secrets/internal/privdir documents the conditions for files and the directory.
// Changes are atomic and synced to the disk; a lock on the file .lock serializes
// writers. An ephemeral secret needs a directory in memory.
package dir
