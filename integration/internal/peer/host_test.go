package peer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
)

func TestReadHost(t *testing.T) {
	t.Parallel()
	id := uuid.NewString()
	if found, err := ReadHost(id); err != nil || len(found) > 0 {
		t.Errorf("a VM that does not exist has %v, error %v", found, err)
	}
	dirs := RunDirs(id)
	if len(dirs) == 0 {
		t.Fatal("no directory")
	}
	note := filepath.Join(dirs[0], "vdb.json")
	top := filepath.Dir(filepath.Dir(dirs[0]))
	if _, err := os.Stat(top); errors.Is(err, os.ErrNotExist) {
		t.Cleanup(func() { _ = os.Remove(filepath.Dir(dirs[0])); _ = os.Remove(top) }) // refused while others use it
	}
	t.Cleanup(func() { _ = os.RemoveAll(dirs[0]) })
	must.OK(t, errors.Join(os.MkdirAll(dirs[0], 0o711), os.WriteFile(note, nil, 0o600)))
	if found, err := ReadHost(id); err != nil || !slices.Equal(found, []string{dirs[0], note}) {
		t.Errorf("found %v, error %v", found, err)
	}
}

// TestTCPProxy: a client on TCP gets what one on a unix socket gets, except descriptors.
func TestTCPProxy(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	q := Start(t, Options{Paused: true})
	p := NewTCPProxy(t, q.Socket, CutAtStep(2, CutBeforeForward))
	m, err := dialMonitor(ctx, "tcp", p.Address)
	must.OK(t, err)
	t.Cleanup(func() { _ = m.Close() })
	if _, err := m.Execute(ctx, "blockdev-add", node("a")); err != nil {
		t.Error(err)
	}
	if _, err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": "a"}); err == nil {
		t.Error("the second step went through")
	}
	if got := p.Steps(); !slices.Equal(got, []string{"blockdev-add", "blockdev-del"}) {
		t.Errorf("steps %v", got)
	}
	s, err := q.State(ctx)
	if err != nil || !slices.Contains(s.Nodes, "a") {
		t.Errorf("nodes %v, error %v", s.Nodes, err)
	}
}

// TestThrough: another program becomes QEMU by exec.
func TestThrough(t *testing.T) {
	t.Parallel()
	q := Start(t, Options{Paused: true, Through: []string{"env", "LUKSPLUG_THROUGH=1"}})
	environment, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(q.PID), "environ"))
	if err != nil || !strings.Contains(string(environment), "LUKSPLUG_THROUGH=1") {
		t.Errorf("the environment of QEMU is %q, error %v", environment, err)
	}
}

// TestCryptGuest: the guest's own cryptsetup makes and opens a volume.
func TestCryptGuest(t *testing.T) {
	Long(t, "boots a guest to test the harness; TestGuestFormatted uses it every time")
	t.Parallel()
	ctx := testContext(t)
	q := Start(t, Options{Guest: true, Kernel: CryptGuest})
	out, err := q.Guest().Run(ctx, `set -e; export DM_DISABLE_UDEV=1
dd if=/dev/zero of=/tmp/volume bs=1M count=20 2>/dev/null
printf secret > /tmp/key
cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/key /tmp/volume
cryptsetup luksUUID /tmp/volume`)
	must.OK(t, err)
	if _, err := uuid.Parse(strings.TrimSpace(out)); err != nil {
		t.Errorf("the guest says %q: %v", out, err)
	}
}

// TestVolumeKey reads the volume key of a volume that has a format of the caller's.
func TestVolumeKey(t *testing.T) {
	t.Parallel()
	v := NewFormatted(t, EmbeddedLUKS, "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-size", "256")
	key, err := v.VolumeKey(context.Background())
	if err != nil || len(key) != 32 || !v.IsLUKS2() || v.Offset != 16*MiB {
		t.Errorf("a key of %d bytes, an offset of %d, LUKS2 %v, error %v", len(key), v.Offset, v.IsLUKS2(), err)
	}
}
