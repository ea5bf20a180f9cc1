package credentials_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/credentials"
	"github.com/luksplug/luksplug/secrets/dir"
)

func Example() {
	store := credentials.New(os.Getenv("CREDENTIALS_DIRECTORY"))
	_, err := store.Lookup(context.Background(), secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"})
	fmt.Println(errors.Is(err, secrets.ErrUnreachable)) // unless systemd runs the test
	// Output: true
}

// TestMain gives systemd-creds a temporary host key, so that the tests leave nothing
// on the machine.
func TestMain(m *testing.M) {
	if memtest.Child() != nil {
		os.Exit(m.Run()) // with the key of the process that has started this one
	}
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "luksplug-creds")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(directory) }()
		if err := errors.Join(os.Unsetenv("CREDENTIALS_DIRECTORY"), os.Setenv("SYSTEMD_CREDENTIAL_SECRET", filepath.Join(directory, "host.secret"))); err != nil {
			panic(err)
		}
		if _, err := exec.LookPath("systemd-creds"); err == nil {
			// Once, because parallel tests would race to create the key.
			if out, err := exec.Command("systemd-creds", "setup").CombinedOutput(); err != nil {
				panic(fmt.Sprintf("systemd-creds setup: %v: %s", err, out))
			}
		}
		return m.Run()
	}())
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		directory := filepath.Join(t.TempDir(), "credentials")
		must.OK(t, os.Mkdir(directory, 0o700))
		path := func(ref secrets.Reference) string { return filepath.Join(directory, dir.FileName(ref)) }
		return storetest.Fixture{
			Store: credentials.New(directory),
			Put: func(t *testing.T, ref secrets.Reference, value []byte) {
				must.OK(t, os.WriteFile(path(ref), value, 0o400))
			},
			Deny:  func(t *testing.T, ref secrets.Reference) { must.OK(t, os.Chmod(path(ref), 0o444)) },
			Break: func(t *testing.T) { must.OK(t, os.RemoveAll(directory)) },
		}
	})
}

func TestFilesOfTheServiceManager(t *testing.T) {
	t.Parallel()
	ref := storetest.ByUUID()
	for name, c := range map[string]struct {
		make func(path string) error
		want error
	}{
		"for root":          {func(p string) error { return os.WriteFile(p, nil, 0o400) }, nil},
		"for a user by ACL": {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o440)) }, nil},
		"for a writer":      {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o460)) }, secrets.ErrDenied},
		"a link":            {func(p string) error { return os.Symlink("/etc/hostname", p) }, secrets.ErrDenied},
		"a link inside":     {func(p string) error { return errors.Join(os.WriteFile(p+"x", nil, 0o400), os.Symlink(p+"x", p)) }, secrets.ErrDenied},
		"a pipe":            {func(p string) error { return unix.Mkfifo(p, 0o400) }, secrets.ErrDenied},
		"a directory":       {func(p string) error { return os.Mkdir(p, 0o700) }, secrets.ErrDenied},
	} {
		directory := t.TempDir()
		must.OK(t, c.make(filepath.Join(directory, dir.FileName(ref))))
		if _, err := credentials.New(directory).Lookup(t.Context(), ref); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// encrypt creates an encrypted credential as an administrator does.
func encrypt(t *testing.T, path string, value []byte) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "systemd-creds", "encrypt", "--with-key=host", "--name="+filepath.Base(path), "-", path)
	cmd.Stdin = bytes.NewReader(value)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("systemd-creds encrypt: %v: %s", err, out)
	}
}

func needSystemd(t *testing.T) {
	t.Helper()
	must.Have(t, "systemd-creds")
}

func TestEncrypted(t *testing.T) {
	t.Parallel()
	needSystemd(t)
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		directory := filepath.Join(t.TempDir(), "with space")
		must.OK(t, os.Mkdir(directory, 0o700))
		path := func(ref secrets.Reference) string { return filepath.Join(directory, dir.FileName(ref)) }
		return storetest.Fixture{
			Store: credentials.NewEncrypted(directory, credentials.Options{Timeout: time.Minute}),
			Put:   func(t *testing.T, ref secrets.Reference, value []byte) { encrypt(t, path(ref), value) },
			Deny:  func(t *testing.T, ref secrets.Reference) { swap(t, directory, path(ref)) },
			Break: func(t *testing.T) { must.OK(t, os.RemoveAll(directory)) },
			Damage: func(t *testing.T, ref secrets.Reference) {
				must.Write(t, path(ref), "<confidential>\n")
			},
		}
	})
}

// swap replaces the credential at path by that of another secret.
func swap(t *testing.T, directory, path string) {
	t.Helper()
	other := filepath.Join(directory, dir.FileName(storetest.ByUUID()))
	encrypt(t, other, []byte("confidential"))
	must.OK(t, os.Rename(other, path))
}

func TestEncryptedSays(t *testing.T) {
	t.Parallel()
	needSystemd(t)
	directory := t.TempDir()
	ref := storetest.ByUUID()
	swap(t, directory, filepath.Join(directory, dir.FileName(ref)))
	var messages bytes.Buffer
	_, err := credentials.NewEncrypted(directory, credentials.Options{Stderr: &messages}).Lookup(t.Context(), ref)
	if !errors.Is(err, secrets.ErrDenied) || !strings.Contains(err.Error(), "another host or name") || !strings.Contains(messages.String(), "Embedded credential name") {
		t.Errorf("%v; its messages: %s", err, &messages)
	}
}

// TestProgram looks up without systemd-creds, then with one that hangs.
func TestProgram(t *testing.T) {
	// Not parallel: it changes PATH.
	directory, bin := t.TempDir(), t.TempDir()
	ref := storetest.ByUUID()
	must.Write(t, filepath.Join(directory, dir.FileName(ref)), "AAAA")
	t.Setenv("PATH", bin)
	store := credentials.NewEncrypted(directory, credentials.Options{Timeout: 500 * time.Millisecond})
	storetest.Fails(t, store, ref, secrets.ErrUnreachable, "systemd-creds")
	must.OK(t, os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte("#!/bin/sh\nexec /bin/sleep 3600\n"), 0o700))
	storetest.Fails(t, store, ref, secrets.ErrUnreachable, "500ms")
}

// TestNoValueIsLeftInMemory: package keystore has this test for the other stores.
func TestNoValueIsLeftInMemory(t *testing.T) {
	needSystemd(t)
	if s := memtest.Child(); s != nil {
		ref := secrets.Reference{Type: secrets.Passphrase, Usage: "/x"}
		memtest.Store(t, s, credentials.NewEncrypted(os.Getenv("LUKSPLUG_MEMTEST_DIRECTORY"), credentials.Options{}), ref)
		return
	}
	v, directory := memtest.NewValue(), t.TempDir()
	encrypt(t, filepath.Join(directory, dir.FileName(secrets.Reference{Type: secrets.Passphrase, Usage: "/x"})), v.Bytes)
	v.Run(t, "LUKSPLUG_MEMTEST_DIRECTORY="+directory)
}
