package peer

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// MatrixQEMU returns the path of another release's qemu-system-x86_64, for Options.Binary: bookworm has 7.2,
// trixie 10.0, sid the newest. It is unpacked into the cache on demand, with qemu-img and other tools of the
// release in the same directory. Without mmdebstrap the test is skipped.
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

// NewestQEMU is MatrixQEMU of Debian's sid. If the cache lacks it, a quick run skips the test.
func NewestQEMU(t testing.TB) string {
	t.Helper()
	const suite = "sid"
	cache, err := CacheDir()
	must.OK(t, err)
	if found, err := filepath.Glob(filepath.Join(cache, "qemu-"+suite+"-v*", "bin")); err != nil || len(found) == 0 {
		Long(t, "fetches the newest QEMU")
	}
	return MatrixQEMU(t, suite)
}

// runScript runs one of the repository's scripts and returns its output.
func runScript(ctx context.Context, name string, args ...string) (string, error) {
	module, err := Output(ctx, "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	out, err := Output(ctx, filepath.Join(filepath.Dir(module), "scripts", name), args...)
	return strings.TrimSpace(out), err
}
