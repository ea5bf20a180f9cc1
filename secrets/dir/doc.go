// Package dir is the plainest key store: a folder with one file per secret, the
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
// A secret that two references name is two files, or one and a hard link.
//
// What others could read or replace is refused, not used: a file must be a
// regular file without any permission for group and others (like mode 0600 or
// 0400), a folder must not be writable by group and others (a sticky bit does not
// help: others could still put a file under a missing name), and both must belong
// to the caller or to root. Checks are made on open descriptors, so that nothing
// can be exchanged between check and reading. The folder may be reached through a
// symbolic link, a file may not be one.
package dir
