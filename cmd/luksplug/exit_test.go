package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/passphrase"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	refusal := errors.New("QEMU's refusal")
	wrong := fmt.Errorf("step 4 of 6: %w", qmp.ErrWrongPassphrase)
	denied := &secrets.StoreError{Store: "dir:/keys", Err: secrets.ErrDenied}
	pending := &hotplug.PendingError{Target: "vdb"}
	_, _, missing := readConfig("/nonexistent")
	cases := []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, 0},
		{"anything else", refusal, 1},
		{"no connection", fmt.Errorf("connect: %w", fs.ErrNotExist), 1},
		{"an outcome that is unknown, of a question", &qmp.UnknownOutcomeError{Command: "query-block", Err: context.Canceled}, 1},
		{"the command line", &usageError{refusal}, 2},
		{"invalid XML", &diskxml.XMLError{Reason: "x"}, 2},
		{"an invalid disk", &blockgraph.InvalidError{Reason: "x"}, 2},
		{"a volume that nothing can be", fmt.Errorf("make: %w", volume.ErrRequest), 2},
		{"a volume that this program cannot make", fmt.Errorf("make: %w", volume.ErrUnsupported), 3},
		{"a volume that exists", fmt.Errorf("make: %w", volume.ErrExists), 5},
		{"a volume that is left", &volume.LeftError{Err: volume.ErrExists}, 7},
		{"no such kind of key store", fmt.Errorf("--keystore: %w", &keystore.UnknownSchemeError{Scheme: "vault"}), 2},
		{"a malformed key store", fmt.Errorf("--keystore: %w", keystore.ErrInvalidURI), 2},
		{"a malformed passphrase source", &hotplug.SecretError{Target: "vdb", Err: passphrase.ErrInvalidSource}, 2},
		{"valid XML that is not supported", &blockgraph.UnsupportedError{Reason: "x"}, 3},
		{"a key store that is not built in", fmt.Errorf("--keystore: %w", pkcs11.ErrNotBuilt), 3},
		{"an old QEMU", &hotplug.VersionError{Target: "vdb"}, 3},
		{"a re-encryption that goes on", fmt.Errorf("x: %w", &leftRunningError{err: context.Canceled}), 130},
		{"a re-encryption that has ended", fmt.Errorf("x: %w: %w", reencrypt.ErrEnded, errDropped), 6},
		{"a disk that cannot be re-encrypted", fmt.Errorf("x: %w", reencrypt.ErrRequest), 5},
		{"a re-encryption of another process", &reencrypt.DrivenError{Err: context.DeadlineExceeded}, 5},
		{"no room for a new volume", &reencrypt.RoomError{}, 5},
		{"no secret", &hotplug.SecretError{Target: "vdb", Err: denied}, 4},
		{"a key store's error alone", denied, 4},
		{"an invalid <secret> document", fmt.Errorf("%w: x", secrets.ErrInvalidDocument), 2},
		{"a missing configuration", missing, 2},
		{"a private secret", &secrets.StoreError{Err: secrets.ErrPrivate}, 4},
		{"a conflict of secrets", &secrets.StoreError{Err: fmt.Errorf("%w: x", secrets.ErrConflict)}, 5},
		{"a secret in the XML", fmt.Errorf("x: %w", libvirtvm.ErrSecretInXML), 5},
		{"an ephemeral secret for a disk", &secrets.StoreError{Err: secrets.ErrPersistent}, 5},
		{"a secret in use", &inUseError{}, 5},
		{"a missing passphrase file", &hotplug.SecretError{Target: "vdb", Err: fs.ErrNotExist}, 4},
		{"a wrong passphrase, rolled back", &hotplug.RolledBackError{Target: "vdb", Err: wrong}, 4},
		{"a refusal", &hotplug.PreflightError{Target: "vdb"}, 5},
		{"no place", &blockgraph.PlacementError{Target: "vdb"}, 5},
		{"not held", &hotplug.NotHeldError{Target: "vdb"}, 5},
		{"locked", &hotplug.LockedError{Err: context.DeadlineExceeded}, 5},
		{"rolled back", &hotplug.RolledBackError{Target: "vdb", Err: refusal}, 6},
		{"rolled back after a signal", &hotplug.RolledBackError{Target: "vdb", Err: context.Canceled}, 6},
		{"left behind", &hotplug.LeftBehindError{Target: "vdb", Err: refusal}, 7},
		{"left behind after a wrong passphrase", &hotplug.LeftBehindError{Target: "vdb", Err: wrong}, 7},
		{"left behind of several disks", errors.Join(refusal, &hotplug.LeftBehindError{Target: "vdb", Err: pending}), 7},
		{"pending", pending, 8},
	}
	for _, c := range cases {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		if c.err == nil {
			continue
		}
		if got := exitCode(fmt.Errorf("wrapped: %w", c.err)); got != c.want {
			t.Errorf("%s, wrapped: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":               "",
		"one":            "one",
		"one\ntwo":       "one; two",
		"one\r\n\ntwo\n": "one; two",
		errors.Join(fs.ErrNotExist, fs.ErrClosed).Error(): "file does not exist; file already closed",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
