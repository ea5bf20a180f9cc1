// Package must has helpers for tests: each function ends the test if it fails, or skips it if a program is missing. Only
// tests may import it.
package must

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// OK ends the test if one of the errors is not nil.
func OK(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Get returns a function that returns value, or ends the test if err is not nil: data := must.Get(os.ReadFile(path))(t).
func Get[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		OK(t, err)
		return value
	}
}

// Use returns a copy of the bytes of a secret.
func Use(t testing.TB, secret interface {
	Use(func([]byte) error) error
}) []byte {
	t.Helper()
	var out []byte
	OK(t, secret.Use(func(b []byte) error { out = bytes.Clone(b); return nil }))
	return out
}

// Write writes content to the file path, which has mode 0600 if it is new.
func Write[T ~string | ~[]byte](t testing.TB, path string, content T) {
	t.Helper()
	OK(t, os.WriteFile(path, []byte(content), 0o600))
}

// File returns the path of a new file, of mode 0600, with that content. It is removed when the test ends.
func File[T ~string | ~[]byte](t testing.TB, content T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	Write(t, path, content)
	return path
}

// Have skips the test if one of the programs is not installed.
func Have(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make setup installs it)", program)
		}
	}
}

// Dir returns a new directory below parent, "" for that of temporary files. It is removed when the test ends. Its
// path is shorter than one of t.TempDir, as a socket's has to be. The test is skipped if it cannot be made.
func Dir(t testing.TB, parent string) string {
	t.Helper()
	path, err := os.MkdirTemp(parent, "luksplug")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) }) // a server may have removed its entries
	return path
}
