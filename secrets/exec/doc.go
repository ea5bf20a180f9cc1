// Package exec is a key store that runs a program. The environment names the secret,
// and the program writes its value to standard output. This is how Vault, OpenBao, clevis and password managers are reached.
//
// # What the program gets
//
// It is run once for each look-up, without a shell, with an empty standard input
// and the environment of the caller, to which is added:
//
//	LUKSPLUG_SECRET_TYPE    passphrase, ceph, iscsi, tls or vtpm
//	LUKSPLUG_SECRET_UUID    the uuid, or empty
//	LUKSPLUG_SECRET_USAGE   the usage, or empty; one of the two is given
//
// None of them is secret. A usage comes from a disk's XML: a script has to quote
// it.
//
// # What it answers
//
// The value is every byte of standard output, at most [secrets.MaxLen] of them: a
// newline at the end is a part of it. Messages go to standard error, which is
// passed on; luksplug's own errors never repeat what the program wrote. The exit
// status is the outcome:
//
//	0       the value was written; nothing written: there is none yet
//	2       there is no such secret: other stores are asked
//	3       access is denied
//	4       the store is locked, and must be opened first
//	others  the store could not be asked
//
// A program that is ended by a signal, takes longer than [Options.Timeout], or
// writes too much has not answered either. Together with it ends all that it has
// started, unless that made a process group of its own. A program that asks for
// something at a terminal is stopped by the terminal, as it runs in the
// background: what has to be unlocked is unlocked before.
//
// # The command
//
// [Split] reads it: words between spaces, in which '...' keeps everything as it
// is, and "..." everything but \" and \\. Nothing else has a meaning: no
// variables, no patterns, no pipes. A command that begins with [ is a JSON array
// of words instead. Every user of the host can see the command; no secret
// belongs in it. In a URI, %, # and ? are written %25, %23 and %3F.
//
// Programs with other habits are run by a shell that translates. The shell is the
// program then, and the word after -c its script; each of these is one line:
//
//	# Vault, with the token in ~/.vault-token; for OpenBao, bao in the place of vault.
//	# Its status 2 can mean anything that went wrong at the server, so none of its
//	# failures is taken for "not found", and the search ends there.
//	exec:/bin/sh -c 'vault kv get -field=passphrase "secret/luksplug/$LUKSPLUG_SECRET_UUID" || exit 1'
//
//	# clevis (tang, TPM): a directory of files that "clevis encrypt" made.
//	exec:/bin/sh -c 'f=/etc/luksplug/clevis/$LUKSPLUG_SECRET_UUID.jwe; [ -e "$f" ] || exit 2; exec clevis decrypt <"$f"'
//
//	# pass, with gpg-agent unlocked before. Its output ends with a newline, and $(...)
//	# takes that away.
//	exec:/bin/sh -c 'f=luksplug/$LUKSPLUG_SECRET_UUID; [ -e "$HOME/.password-store/$f.gpg" ] || exit 2; v=$(pass show "$f") && printf %25s "$v"'
//
//	# systemd-creds; the store credentials: does the same without a shell.
//	exec:/bin/sh -c 'f=/etc/credstore.encrypted/$LUKSPLUG_SECRET_UUID; [ -e "$f" ] || exit 2; exec systemd-creds decrypt "$f" -'
//
// Values that are not text are best stored in base64, and looked up with
// ?encoding=base64.
package exec
