package peer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestCpioIsReadable has the archive unpacked by another implementation.
func TestCpioIsReadable(t *testing.T) {
	t.Parallel()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		busybox = filepath.Join(guestRoot(t), "bin", "busybox")
	}
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	c.dir("d")
	c.file("d/odd", 0o640, []byte("12345"))
	c.file("d/empty", 0o600, nil)
	c.symlink("link", "d/odd")
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	content, err := os.ReadFile(filepath.Join(dir, "link"))
	if err != nil || string(content) != "12345" {
		t.Errorf("through the link: %q, error %v", content, err)
	}
	info, err := os.Stat(filepath.Join(dir, "d", "odd"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, error %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "d", "empty")); err != nil || info.Size() != 0 {
		t.Errorf("empty file: %v, error %v", info, err)
	}
}

func TestCpioReportsTheFirstWriteError(t *testing.T) {
	t.Parallel()
	c := &cpioWriter{w: failingWriter{}}
	c.file("a", 0o600, []byte("x"))
	if err := c.close(); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

// TestModuleOrder uses real modules: those that a guest image holds have been
// through closure already, so they are taken from the package again.
func TestModuleOrder(t *testing.T) {
	t.Parallel()
	tree, err := findModules(filepath.Join(guestRoot(t), "lib", "modules"))
	if err != nil {
		t.Fatal(err)
	}
	order, err := tree.closure([]string{"virtio_blk", "sd_mod"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"virtio_ring", "virtio", "virtio_blk", "scsi_common", "scsi_mod", "sd_mod"}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if _, err := tree.closure([]string{"no_such_module"}); err == nil || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("a module that is not there gave %v", err)
	}
}

// guestRoot unpacks the guest's packages once for all tests.
var guestRoot = func() func(t *testing.T) string {
	var once sync.Once
	var dir string
	var err error
	return func(t *testing.T) string {
		t.Helper()
		once.Do(func() { dir, err = unpackForTests(testContext(t)) })
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "root")
	}
}()

func unpackForTests(ctx context.Context) (string, error) {
	return cached("test-packages-v1", func(dir string) error {
		kernel, err := kernelPackageOf(ctx, CloudKernel)
		if err != nil {
			return err
		}
		return unpackPackages(ctx, dir, filepath.Join(dir, "root"), kernel, "busybox-static")
	})
}

func TestCacheBuildsAnEntryOnce(t *testing.T) {
	t.Setenv("LUKSPLUG_CACHE", filepath.Join(t.TempDir(), "cache"))
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := cached("entry", func(dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(content) != "content" {
				t.Errorf("content %q, error %v", content, err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestCacheForgetsAFailedBuild(t *testing.T) {
	root := filepath.Join(t.TempDir(), "cache")
	t.Setenv("LUKSPLUG_CACHE", root)
	if _, err := cached("entry", func(string) error { return errFull }); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
	left, err := filepath.Glob(filepath.Join(root, "*entry*"))
	if err != nil || !slices.Equal(left, []string{filepath.Join(root, "entry.lock")}) {
		t.Errorf("left behind: %v, error %v", left, err)
	}
	if _, err := cached("entry", func(string) error { return nil }); err != nil {
		t.Errorf("second try: %v", err)
	}
}

// TestNothingSurvivesACrash kills a test binary and looks for its QEMU.
func TestNothingSurvivesACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), helperVariable+"="+dir)
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := stdout.Read(line); err != nil || string(line) != "ready\n" {
		t.Fatalf("the helper says %q, error %v", line, err)
	}
	ctx := testContext(t)
	m, err := DialMonitor(ctx, filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if err := child.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	// The connection ends when QEMU does, and not before.
	if _, err := m.WaitEvent(ctx, func(Event) bool { return false }); err == nil || ctx.Err() != nil {
		t.Errorf("QEMU lives on: %v", err)
	}
}

// helperVariable makes the test binary a program that starts a QEMU in the
// folder that it names, and stays.
const helperVariable = "LUKSPLUG_PEER_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperVariable); dir != "" {
		helper(dir)
	}
	os.Exit(m.Run())
}

// helper never returns.
func helper(dir string) {
	q, err := Run(context.Background(), dir, Options{Paused: true})
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error()) // the test shows it
		os.Exit(1)
	}
	_ = q.monitor.Close() // Run asked over it, and a monitor serves one client
	_, _ = os.Stdout.WriteString("ready\n")
	select {} // until it is killed
}
