// Package must has helpers for tests: each function ends the test if it fails, or skips it if a program is missing. Only
// tests may import it.
package must

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// noCPUTime is what qemu-img says where the kernel's clock of processor time did not advance while it measured how
// fast it derives keys. It happens by chance, so Run tries again, up to 20 times.
const noCPUTime = "Unable to get accurate CPU usage"

// Run runs a program with stdin and returns its standard output and error. It ends the test if the program fails.
func Run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	for attempt := 1; ; attempt++ {
		cmd := exec.Command(name, args...) // a Cleanup runs programs too, after t.Context ended
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return string(out)
		}
		if attempt == 20 || !strings.Contains(string(out), noCPUTime) {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
}

// LUKS returns the path of a new LUKS volume of size bytes, header included, that cryptsetup formats with options, or
// LUKS1 without any. It skips the test where cryptsetup is missing. qemu-img takes thirty times as long, because it
// measures the processor.
func LUKS[T ~string | ~[]byte](t testing.TB, passphrase T, size int64, options ...string) string {
	t.Helper()
	Have(t, "cryptsetup")
	if options == nil {
		options = []string{"--type", "luks1"}
	}
	path := File(t, "")
	OK(t, os.Truncate(path, size))
	args := append([]string{"luksFormat", "--batch-mode", "--pbkdf-force-iterations", "1000", "--key-file", "-"}, options...)
	Run(t, string(passphrase), "cryptsetup", append(args, path)...)
	return path
}
