package peer

import (
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

	"github.com/luksplug/luksplug/internal/must"
)

var errFull = errors.New("disk full")

// TestModuleOrder uses the modules of the package, as those of a guest image are already in order.
func TestModuleOrder(t *testing.T) {
	t.Parallel()
	packages, err := cached("test-packages-v1", func(dir string) error {
		kernel, err := kernelPackageOf(t.Context(), CloudKernel)
		if err != nil {
			return err
		}
		return unpackPackages(t.Context(), dir, filepath.Join(dir, "root"), kernel, "busybox-static")
	})
	must.OK(t, err)
	tree, err := findModules(filepath.Join(packages, "root", "lib", "modules"))
	must.OK(t, err)
	order, err := tree.closure([]string{"virtio_blk", "sd_mod"})
	must.OK(t, err)
	want := []string{"virtio_ring", "virtio", "virtio_blk", "scsi_common", "scsi_mod", "sd_mod"}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if _, err := tree.closure([]string{"no_such_module"}); err == nil || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("a missing module gave %v", err)
	}
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

// TestNothingSurvivesACrash: QEMU ends when its test binary is killed.
func TestNothingSurvivesACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), helperVariable+"="+dir)
	stdout, err := child.StdoutPipe()
	must.OK(t, err)
	must.OK(t, child.Start())
	line := make([]byte, 6)
	if _, err := stdout.Read(line); err != nil || string(line) != "ready\n" {
		t.Fatalf("the helper says %q, error %v", line, err)
	}
	ctx := testContext(t)
	m, err := DialMonitor(ctx, filepath.Join(dir, "control.sock"))
	must.OK(t, err)
	defer func() { _ = m.Close() }()
	must.OK(t, child.Process.Signal(syscall.SIGKILL))
	_ = child.Wait() // it was killed
	// The connection ends when QEMU does, and not before.
	if _, err := m.WaitEvent(ctx, func(Event) bool { return false }); err == nil || ctx.Err() != nil {
		t.Errorf("QEMU still runs: %v", err)
	}
}

// helperVariable has the test binary start a QEMU in the directory of its value and run until it is killed.
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
	_ = q.monitor.Close() // Run has used it, and a monitor serves one client
	_, _ = os.Stdout.WriteString("ready\n")
	select {} // until it is killed
}
