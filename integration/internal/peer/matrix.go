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

// MatrixQEMU returns the path of another release's qemu-system-x86_64, for Options.Binary: bookworm has 7.2,
// trixie 10.0, sid the newest. It is unpacked into the cache on demand, with the release's qemu-img and
// others in the same directory. Without mmdebstrap the test is skipped.
func MatrixQEMU(t testing.TB, suite string) string {
	t.Helper()
	return filepath.Join(matrix(t, suite), "qemu-system-x86_64")
}

// matrix returns the directory of another release's programs. set is that of scripts/qemu-matrix.sh.
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

// NewestQEMU is MatrixQEMU of Debian's sid, which takes long to fetch: if the cache lacks it, a quick run
// skips the test.
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

// runScript runs one of the repository's scripts and returns its output.
func runScript(ctx context.Context, name string, args ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out, err := Output(ctx, filepath.Join(root, "scripts", name), args...)
	return strings.TrimSpace(out), err
}

// moduleRoot returns the directory of go.mod: the working directory, which of a test is its package's, or the
// nearest one above.
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
