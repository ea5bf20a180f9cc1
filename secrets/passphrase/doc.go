// Package passphrase reads a passphrase from a file, standard input or an inherited
// file descriptor. It does not read it from an argument or the environment, which
// other users of the host can see.
//
// As with `cryptsetup --key-file`, all bytes count: no newline is stripped, except that of
// a line that is typed at a terminal. A final
// newline is the usual cause of "wrong passphrase" if the file was written with an
// editor or echo; [secrets.Secret.Stray] describes it.
package passphrase
