// Package privdir reads and writes the files of key stores that are directories. It
// reads only files that no other user could have read or replaced, and replaces files
// atomically.
//
// A file must be a regular file without any permission for group and others, a
// directory must not be writable by group and others (a sticky bit does not help:
// others could still create a file under a missing name), and both must belong to
// the caller or to root. Open descriptors are checked, so that no file can be
// replaced between check and read. The path of the directory may contain symbolic
// links; a file must not be one.
//
// Errors wrap those that package secrets documents for a [secrets.Store].
package privdir
