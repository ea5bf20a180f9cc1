// Package privdir is the floor under the key stores that are a directory of files: it
// reads files that nobody else could have read or replaced, and writes them so
// that each is there in its old or in its new form, whatever happens.
//
// A file must be a regular file without any permission for group and others, a
// directory must not be writable by group and others (a sticky bit does not help:
// others could still put a file under a missing name), and both must belong to
// the caller or to root. Checks are made on open descriptors, so that nothing can
// be exchanged between check and reading. The directory may be reached through a
// symbolic link, a file may not be one.
//
// Errors wrap those of package secrets that a [secrets.Store] answers with.
package privdir
