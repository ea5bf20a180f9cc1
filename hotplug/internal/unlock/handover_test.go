package unlock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets/luks"
)

// ephemeral makes an ephemeral header of a real one.
func ephemeral(t *testing.T) *luks.EphemeralHeader {
	t.Helper()
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skip("cryptsetup is not installed: make setup")
	}
	path := filepath.Join(t.TempDir(), "volume")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<20)); err != nil {
		t.Fatal(err)
	}
	format := exec.Command("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1", "--pbkdf-force-iterations", "1000", path, "-")
	format.Stdin = bytes.NewReader([]byte("a passphrase"))
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup: %v: %s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	h, err := luks.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.Unlock(context.Background(), []byte("a passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	e, err := luks.Ephemeral(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Wipe)
	return e
}

func isHeader(t *testing.T, f io.ReaderAt, h *luks.EphemeralHeader) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	_ = h.Use(func(want []byte) error {
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes, which are not the header's %d", len(got), len(want))
		}
		return nil
	})
}

func TestSealed(t *testing.T) {
	t.Parallel()
	h := ephemeral(t)
	f, err := sealed("luksplug-header", "the ephemeral header", h.Use)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // in memory
	isHeader(t, f, h)
	if _, err := f.WriteAt([]byte{0}, 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("written to: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("cut off: %v", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDWR {
		t.Errorf("flags %#x, %v: QEMU wants a descriptor for reading and writing", flags, err)
	}
}

func TestWriteHeader(t *testing.T) {
	t.Parallel()
	h := ephemeral(t)
	us := hostproc.Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if rundir.InMemory(t.TempDir()) != nil {
		path := filepath.Join(t.TempDir(), "header")
		if err := writeHeader(path, us, h); err == nil {
			t.Error("a header was written to a disk")
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("and is still there")
		}
	}
	memory, err := os.MkdirTemp("/dev/shm", "luksplug-test-")
	if err != nil || rundir.InMemory(memory) != nil {
		t.Skipf("/dev/shm is no place in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	path := filepath.Join(memory, "header")
	for range 2 { // the second time over what an interrupted run has left
		if err := writeHeader(path, us, h); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	isHeader(t, f, h)
	if info, err := f.Stat(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestHandOver(t *testing.T) {
	t.Parallel()
	h := ephemeral(t)
	memory, err := os.MkdirTemp("/dev/shm", "luksplug-test-")
	if err != nil || rundir.InMemory(memory) != nil {
		t.Skipf("/dev/shm is no place in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	us := hostproc.Credential{UID: uint32(os.Geteuid())}
	v := &Values{headers: map[string]*luks.EphemeralHeader{"node": h}}
	path := filepath.Join(memory, "node")
	graph := &blockgraph.Graph{Headers: []blockgraph.EphemeralHeader{{Node: "node", File: path}}}
	remove, err := v.HandOver(graph, us)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	remove()
	remove()
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is still there")
	}
	graph.Headers = append(graph.Headers, blockgraph.EphemeralHeader{Node: "unknown", File: path + "2"})
	if _, err := v.HandOver(graph, us); err == nil {
		t.Error("a header that was not resolved")
	}
	if left, err := os.ReadDir(memory); err != nil || len(left) != 0 {
		t.Errorf("left after a failure: %v, %v", left, err)
	}
}
