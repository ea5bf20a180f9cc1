package exec_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/tangtest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/exec"
)

// TestClevis looks up a value that clevis has bound to a tang server, by the command
// in the package comment.
func TestClevis(t *testing.T) {
	t.Parallel()
	tang := tangtest.Start(t)
	dir := t.TempDir()
	ref, damaged := storetest.ByUUID(), storetest.ByUUID()
	value := make([]byte, 64)
	_, _ = rand.Read(value) // never fails
	value[0], value[63] = 0, '\n'
	cmd := osexec.CommandContext(t.Context(), "clevis", "encrypt", "tang", fmt.Sprintf(`{"url":%q}`, tang.URL), "-y")
	cmd.Stdin = bytes.NewReader(value)
	encrypted, err := cmd.Output()
	if err != nil {
		t.Fatalf("clevis encrypt: %v", err)
	}
	must.Write(t, filepath.Join(dir, ref.UUID.String()+".jwe"), encrypted)
	must.Write(t, filepath.Join(dir, damaged.UUID.String()+".jwe"), encrypted[:len(encrypted)/2])

	line := `/bin/sh -c 'f=DIR/$LUKSPLUG_SECRET_UUID.jwe; [ -e "$f" ] || exit 2; exec clevis decrypt <"$f"'`
	store := must.Get(exec.New(strings.Replace(line, "DIR", dir, 1), exec.Options{Stderr: os.Stderr}))(t)
	secret := must.Get(store.Lookup(t.Context(), ref))(t)
	if !secret.Equal(secrets.New(value)) {
		t.Errorf("another value was found, of %d bytes", secret.Len())
	}
	for ref, want := range map[secrets.Reference]error{storetest.ByUUID(): secrets.ErrNotFound, damaged: secrets.ErrUnreachable} {
		storetest.Fails(t, store, ref, want, "")
	}
	tang.Stop()
	storetest.Fails(t, store, ref, secrets.ErrUnreachable, "")
}
