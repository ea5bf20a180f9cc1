package daemon

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// mustHelp starts a helper that ends with the test.
func mustHelp(t *testing.T, o HelperOptions) Info {
	t.Helper()
	o.Dir = filepath.Join(shortDir(t), "d")
	info, err := StartHelper(testContext(t), o)
	must.OK(t, err)
	t.Cleanup(func() {
		if err := Stop(testContext(t), info.Dir); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		expectNothing(t, o.Dir)
		expectNothing(t, info.Socket)
	})
	return info
}

func TestHelper(t *testing.T) {
	t.Parallel()
	info := mustHelp(t, HelperOptions{})
	client, err := net.Dial("unix", info.Socket)
	must.OK(t, err)
	defer func() { _ = client.Close() }() // nothing was said
	if found, err := Inspect(info.Dir); err != nil || found != info || info.Kind != KindHelper || info.Monitor != "" {
		t.Errorf("got %+v: %v", found, err)
	}
	if _, err := StartHelper(testContext(t), HelperOptions{Dir: info.Dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v, want ErrRunning", err)
	}
	// By itself it would wait for the client to leave.
	if err := Stop(testContext(t), info.Dir); err != nil {
		t.Error(err)
	}
	expectNothing(t, info.Socket)
}

// Only QEMU's user may have reservations made, but the helper itself has the
// rights of root.
func TestHelperOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can let another user connect")
	}
	info := mustHelp(t, HelperOptions{User: &Credential{UID: 4711, GID: 4712}})
	stat, err := os.Stat(info.Socket)
	must.OK(t, err)
	if s := stat.Sys().(*syscall.Stat_t); s.Uid != 4711 || s.Gid != 4712 || stat.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket is %s of %d:%d", stat.Mode(), s.Uid, s.Gid)
	}
	if c, err := hostproc.CredentialOf(info.Process.PID); err != nil || c.UID != 0 {
		t.Errorf("the helper runs as %+v: %v", c, err)
	}
}

// The helper ends with the VM.
func TestWatchHelper(t *testing.T) {
	t.Parallel()
	info := mustHelp(t, HelperOptions{})
	vm := sleeper(t)
	process := processOf(t, vm.Process.Pid)
	watched := watch(testContext(t), info.Dir, process)
	must.OK(t, vm.Process.Kill())
	if err := <-watched; err != nil {
		t.Error(err)
	}
	expectNothing(t, info.Dir)
	if _, err := hostproc.ProcessOf(info.Process.PID); !errors.Is(err, hostproc.ErrEnded) {
		t.Errorf("the helper: %v", err)
	}
}
