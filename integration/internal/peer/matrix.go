package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// MatrixQEMU returns the path of another release's qemu-system-x86_64, for
// Options.Binary: bookworm has 7.2, trixie 10.0, sid what is newest. It unpacks
// it into the cache where that lacks it. The release's qemu-img and others lie
// beside it. Without mmdebstrap it skips the test.
func MatrixQEMU(t testing.TB, suite string) string {
	t.Helper()
	return filepath.Join(matrix(t, suite), "qemu-system-x86_64")
}

// matrix returns the folder of another release's programs; set is that of
// scripts/qemu-matrix.sh.
func matrix(t testing.TB, suite string, set ...string) string {
	t.Helper()
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skipf("QEMU of %s: mmdebstrap is not installed (make setup installs it)", suite)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := runScript(ctx, "qemu-matrix.sh", append([]string{suite}, set...)...)
	if err != nil {
		t.Fatalf("QEMU of %s: %v", suite, err)
	}
	return dir
}

// NewestQEMU is MatrixQEMU of Debian's sid. It takes long to fetch: in a quick run
// the test is skipped where the cache lacks it.
func NewestQEMU(t testing.TB) string {
	t.Helper()
	const suite = "sid"
	cache, err := CacheDir()
	Must(t, err)
	if found, err := filepath.Glob(filepath.Join(cache, "qemu-"+suite+"-v*", "bin")); err != nil || len(found) == 0 {
		Long(t, "fetches the newest QEMU")
	}
	return MatrixQEMU(t, suite)
}

// runScript runs one of the repository's scripts and returns what it printed.
func runScript(ctx context.Context, name string, args ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out, err := Output(ctx, filepath.Join(root, "scripts", name), args...)
	return strings.TrimSpace(out), err
}

// moduleRoot is the folder of go.mod: the working folder, or the nearest one
// above it. go test runs a test in its package's folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod here or above: run this inside luksplug's repository")
		}
		dir = up
	}
}
