// Package exec is a key store that runs a program, for example for Vault, OpenBao, clevis and password managers.
// The environment names the secret, and the program writes its value to standard output.
//
// # Input
//
// The program runs once for each look-up, without a shell, with an empty standard
// input and the caller's environment, to which are added:
//
//	LUKSPLUG_SECRET_TYPE    passphrase, ceph, iscsi, tls or vtpm
//	LUKSPLUG_SECRET_UUID    the uuid, or empty
//	LUKSPLUG_SECRET_USAGE   the usage, or empty; exactly one of the two is set
//
// None of them is secret. The usage comes from a disk's XML: scripts must quote it.
//
// # Output
//
// The value is all of standard output, including a newline at the end, and at most
// [secrets.MaxLen] bytes long. Standard error is passed to [Options.Stderr];
// luksplug's own errors never contain the program's output. The exit status is the
// outcome:
//
//	0       success; empty output means that the secret has no value yet
//	2       there is no such secret: the next store is queried
//	3       access is denied
//	4       the store is locked, and must be opened first
//	others  the store could not be queried
//
// If a signal ends the program, or it exceeds [Options.Timeout] or writes too much,
// the store could not be queried either. The program's children end with it, unless
// they have changed their process group. Because the program runs in the background, a
// terminal stops it when it prompts: unlock its own store beforehand.
//
// # The command
//
// [Split] parses the command: words separated by spaces, in which '...' is literal,
// and "..." is literal except for \" and \\. Nothing else is special: no variables,
// patterns or pipes. A command that begins with [ is a JSON array of words instead.
// Every user of the host can see the command: it must not contain a secret. In a URI,
// write %, # and ? as %25, %23 and %3F.
//
// A program with other conventions needs a shell and a script that translates; each of
// these commands is one line:
//
//	# Vault, with the token in ~/.vault-token; for OpenBao, bao instead of vault. Its
//	# status 2 can mean any failure of the server, so no failure is translated to "not
//	# found", and each ends the search.
//	exec:/bin/sh -c 'vault kv get -field=passphrase "secret/luksplug/$LUKSPLUG_SECRET_UUID" || exit 1'
//
//	# clevis (tang, TPM): a directory of files that "clevis encrypt" made.
//	exec:/bin/sh -c 'f=/etc/luksplug/clevis/$LUKSPLUG_SECRET_UUID.jwe; [ -e "$f" ] || exit 2; exec clevis decrypt <"$f"'
//
//	# pass, with gpg-agent unlocked before. $(...) removes the newline at the end of its
//	# output.
//	exec:/bin/sh -c 'f=luksplug/$LUKSPLUG_SECRET_UUID; [ -e "$HOME/.password-store/$f.gpg" ] || exit 2; v=$(pass show "$f") && printf %25s "$v"'
//
//	# systemd-creds; the store credentials: does the same without a shell.
//	exec:/bin/sh -c 'f=/etc/credstore.encrypted/$LUKSPLUG_SECRET_UUID; [ -e "$f" ] || exit 2; exec systemd-creds decrypt "$f" -'
//
// Store values that are not text in base64, and look them up with ?encoding=base64.
package exec
