package luks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// cancelsWhenWaitedFor is a context that ends as soon as its Done is called.
type cancelsWhenWaitedFor struct {
	context.Context
	cancel context.CancelFunc
}

func (c cancelsWhenWaitedFor) Done() <-chan struct{} {
	c.cancel()
	return c.Context.Done()
}

// argon2Key returns at once when cancelled.
func TestCancelArgon2(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	passphrase := secrets.New([]byte("x"))
	k := kdf{kind: typeArgon2id, salt: make([]byte, 16), time: 8, memory: 64 << 10, lanes: 1}
	start := time.Now()
	key, err := argon2Key(cancelsWhenWaitedFor{ctx, cancel}, k, passphrase, 64)
	left := time.Since(start)
	if key != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, %v", len(key), err)
	}
	passphrase.Wipe()

	passphrase = secrets.New([]byte("x"))
	defer passphrase.Wipe()
	start = time.Now()
	if _, err := argon2Key(t.Context(), k, passphrase, 64); err != nil {
		t.Fatal(err)
	}
	if whole := time.Since(start); left > whole/4 {
		t.Errorf("cancelling took %v of a derivation of %v", left, whole)
	}
}

// long skips a test that needs much time or memory unless LUKSPLUG_LONG is set.
func long(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LUKSPLUG_LONG") == "" {
		t.Skipf("%s (make test-long runs it)", why)
	}
}

// held returns the memory, in bytes, that the process has in use. The test is not
// parallel, so that no other test changes it.
func held(t *testing.T) int64 {
	t.Helper()
	var size, resident int64
	_, err := fmt.Sscan(string(must.Get(os.ReadFile("/proc/self/statm"))(t)), &size, &resident)
	must.OK(t, err)
	return resident * int64(os.Getpagesize())
}

// until polls until happened returns true for the heap's memory.
func until(t *testing.T, what string, happened func(memory int64) bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !happened(held(t)) {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("timed out waiting until %s: the process has %d MiB", what, held(t)>>20)
		}
	}
}

// The largest memory that cryptsetup chooses is freed after a derivation, and after
// a cancelled one.
func TestArgon2WithOneGiB(t *testing.T) {
	long(t, "Argon2 with 1 GiB of memory")
	must.Have(t, "cryptsetup")
	const gib = 1 << 30
	path, dumped := filepath.Join(t.TempDir(), "header"), filepath.Join(t.TempDir(), "key")
	must.Write(t, path, make([]byte, 18<<20))
	for _, args := range [][]string{
		{"luksFormat", "-q", "--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "1048576",
			"--pbkdf-parallel", "2", "--pbkdf-force-iterations", "4", "--key-file", "-", path},
		{"luksDump", "-q", "--dump-volume-key", "--volume-key-file", dumped, "--key-file", "-", path},
	} {
		cmd := exec.CommandContext(t.Context(), "cryptsetup", args...)
		cmd.Stdin = strings.NewReader("x")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	want := must.Get(os.ReadFile(dumped))(t)
	f := must.Get(os.Open(path))(t)
	defer func() { _ = f.Close() }() // only read
	h := must.Get(ReadHeader(f))(t)
	if memory := h.LUKS2.KeySlots[0].KDF.Memory; memory != gib>>10 {
		t.Fatalf("cryptsetup uses %d KiB", memory)
	}

	runtime.GC()
	before := held(t)
	start := time.Now()
	key := must.Get(h.Unlock(t.Context(), []byte("x")))(t)
	took := time.Since(start)
	defer key.Wipe()
	if err := key.Use(func(value []byte) error {
		if !slices.Equal(value, want) {
			t.Error("not the key that cryptsetup finds")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if after := held(t); after > before+gib/16 {
		t.Errorf("%d MiB before, %d MiB after", before>>20, after>>20)
	}

	// Cancel in the middle, once the memory is allocated.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := h.Unlock(ctx, bytes.Repeat([]byte("y"), 9))
		ended <- err
	}()
	until(t, "Argon2 has its memory", func(memory int64) bool { return memory > before+gib/2 })
	start = time.Now()
	cancel()
	err := <-ended
	left := time.Since(start)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left > took/20 {
		t.Errorf("cancelling took %v of a derivation of %v", left, took)
	}
	until(t, "memory is given back", func(memory int64) bool { return memory < before+gib/16 })
	t.Logf("%v to unlock, %v to cancel that", took, left)
}
