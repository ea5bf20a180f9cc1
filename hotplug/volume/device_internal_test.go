package volume

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// TestDeviceUndo: a failed run writes back what was in the header's place, or names it.
func TestDeviceUndo(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	must.Have(t, "losetup")
	file := filepath.Join(t.TempDir(), "device")
	old := bytes.Repeat([]byte("what was there. "), 1<<16)
	must.OK(t, os.WriteFile(file, old, 0o600))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", path).Run() })
	found := must.Get(fsutil.Find(path))(t)
	defer found.Close()
	d := must.Get(openDevice(path, found))(t)
	defer fsutil.CloseRead(d)
	if left := d.remove(); left != nil {
		t.Errorf("before anything was written: %q", left)
	}
	const area = 64 << 10
	must.OK(t, d.fill([]byte("header"), area))
	if got := must.Get(os.ReadFile(path))(t); !bytes.HasPrefix(got, []byte("header\x00")) || !bytes.Equal(got[area:], old[area:]) {
		t.Errorf("written: %q", got[:32])
	}
	if left := d.remove(); left != nil {
		t.Errorf("%q", left)
	}
	if got := must.Get(os.ReadFile(path))(t); !bytes.Equal(got, old) {
		t.Errorf("restored: %q", got[:32])
	}
	must.OK(t, unix.IoctlSetPointerInt(int(d.Fd()), unix.BLKROSET, 1))
	defer func() { must.OK(t, unix.IoctlSetPointerInt(int(d.Fd()), unix.BLKROSET, 0)) }() // the next user of the loop device inherits it
	if left := d.remove(); len(left) != 1 || !strings.Contains(left[0], "the first 65536 bytes of "+path) {
		t.Errorf("a device that cannot be written: %q", left)
	}
}
