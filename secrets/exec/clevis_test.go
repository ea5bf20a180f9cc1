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

// TestClevis looks up what clevis has bound to a tang server, by the line that
// the package's comment gives.
func TestClevis(t *testing.T) {
	t.Parallel()
	tang := tangtest.Start(t)
	folder := t.TempDir()
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
	must.Write(t, filepath.Join(folder, ref.UUID.String()+".jwe"), encrypted)
	must.Write(t, filepath.Join(folder, damaged.UUID.String()+".jwe"), encrypted[:len(encrypted)/2])

	line := `/bin/sh -c 'f=FOLDER/$LUKSPLUG_SECRET_UUID.jwe; [ -e "$f" ] || exit 2; exec clevis decrypt <"$f"'`
	store := must.Get(exec.New(strings.Replace(line, "FOLDER", folder, 1), exec.Options{Stderr: os.Stderr}))(t)
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
