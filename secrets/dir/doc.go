// Package dir is the plainest key store: a directory with one file per secret, the
// file's bytes being the secret, exactly. It suits a tmpfs, a provisioning tool
// and tests. It protects by file permissions only.
//
// A file is named by what refers to it: by uuid, 36 characters in lower case, or
// by usage type and usage, as [FileName] spells them:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	volume-%2Fvar%2Flib%2Fimages%2Fvm1.img
//	ceph-client.libvirt
//
// That is all that a provisioning tool has to know. A secret that was defined
// through luksplug has its document ([secrets.Document.XML]) next to its value, and
// is found by the usage in there as well as by uuid:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f.xml
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//
// Files that other users could read or replace are refused: see package
// secrets/internal/privdir for what a file and the directory must be like. Changes
// are atomic, synced to the disk, and made by one process at a time, which holds a
// lock on the file .lock. An ephemeral secret is taken only where the directory is
// in memory.
package dir
