package main

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// TestPassphraseFromPipeIsInterrupted: a pipe without a writer holds a command no longer than
// until its context ends.
func TestPassphraseFromPipeIsInterrupted(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	must.OK(t, unix.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	store := &given{app: &app{flags: flags{passphrase: pipe}}}
	if _, err := store.Lookup(ctx, secrets.Reference{Type: secrets.Passphrase, Usage: "a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
