// Package passphrase reads a passphrase from the source that a user names: a file,
// standard input or an inherited file descriptor. It does not read it from an
// argument or the environment, which other users of the host can see.
//
// Bytes are taken exactly as they are, as `cryptsetup --key-file` takes them: no
// newline is stripped. That is the usual reason for "wrong passphrase" when the
// file was written with an editor or echo; [EndsInNewline] lets the caller say so.
package passphrase
