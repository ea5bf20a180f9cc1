// Package privdir reads and writes the files of the key stores that are a directory.
// It reads only files that no other user could have read or replaced, and writes
// each so that it has its old or its new content, whatever happens.
//
// A file must be a regular file without any permission for group and others, a
// directory must not be writable by group and others (a sticky bit does not help:
// others could still put a file under a missing name), and both must belong to
// the caller or to root. Checks are made on open descriptors, so that nothing can
// be exchanged between check and reading. The directory may be reached through a
// symbolic link, a file may not be one.
//
// Errors wrap those that package secrets documents for a [secrets.Store].
package privdir
