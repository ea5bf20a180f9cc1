package daemon

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

func TestRoundWithEncryptedImage(t *testing.T) {
	t.Parallel()
	d, image := exported(t, Options{})
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 0xa5 1M 64k", "-c", "read -P 0xa5 1M 64k", url(d))
	if out := tool(t, "qemu-img", "info", "-f", "raw", url(d)); !strings.Contains(out, strconv.Itoa(diskSize)+" bytes") {
		t.Errorf("the export's size is not the disk's:\n%s", out)
	}
	info := d.Info()
	must.OK(t, d.Stop(testContext(t)))
	checkGone(t, info)
	expectInImage(t, image, "0xa5", "1M")
	if err := d.Stop(testContext(t)); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

func TestSocketsAreTheOwners(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	expectPrivate(t, d, uint32(os.Geteuid()))
}

// expectPrivate fails unless the directory and its files belong to the user alone.
func expectPrivate(t *testing.T, d *Daemon, uid uint32) {
	t.Helper()
	for _, name := range []string{".", monitorName, socketName, stderrName, stateName} {
		info, err := os.Lstat(filepath.Join(d.Info().Dir, name))
		must.OK(t, err)
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != uid || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: owner %d, mode %v", name, stat.Uid, info.Mode())
		}
	}
}

func TestWrongPassphraseChangesNothing(t *testing.T) {
	t.Parallel()
	image := encryptedImage(t, shortDir(t))
	d := mustStart(t, Options{})
	if err := unlock(t, d, image, "wrong"); !errors.Is(err, qmp.ErrWrongPassphrase) {
		t.Fatalf("got %v, want ErrWrongPassphrase", err)
	}
	if err := unlock(t, d, image, passphrase); err != nil {
		t.Errorf("the right one after it: %v", err)
	}
}

func TestReadOnlyExport(t *testing.T) {
	t.Parallel()
	image := encryptedImage(t, shortDir(t))
	d := mustStart(t, Options{})
	must.OK(t, unlock(t, d, image, passphrase))
	must.OK(t, d.Export(testContext(t), Export{Node: "disk", Name: "vdb"}))
	tool(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 64k", url(d))
	out := tool(t, "sh", "-c", `! qemu-io -f raw -c "write 0 64k" "$1"`, "sh", url(d))
	if !strings.Contains(out, "Permission denied") {
		t.Errorf("a writer was refused with %q", out)
	}
	if err := d.Export(testContext(t), Export{Node: "none", Name: "vdc"}); !errors.Is(err, qmp.ErrNodeNotFound) {
		t.Errorf("an export of no node: %v", err)
	}
}

// One client at a time: when it has left, the next one is served.
func TestClientsReconnect(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	for range 5 {
		tool(t, "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", url(d))
	}
}

func TestProcessIsDetached(t *testing.T) {
	t.Parallel()
	// A descriptor that is not marked close-on-exec, like one that a shell gave us.
	leak, err := os.Create(filepath.Join(t.TempDir(), "leak"))
	must.OK(t, err)
	defer func() { _ = leak.Close() }()
	inherited, err := unix.Dup(int(leak.Fd()))
	must.OK(t, err)
	defer func() { _ = unix.Close(inherited) }()

	d, _ := exported(t, Options{})
	fds, err := filepath.Glob("/proc/" + strconv.Itoa(d.Info().Process.PID) + "/fd/*")
	if err != nil || len(fds) < 3 {
		t.Fatalf("descriptors: %v, %v", fds, err)
	}
	want := map[string]string{"0": "/dev/null", "1": "/dev/null", "2": filepath.Join(d.Info().Dir, stderrName)}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		if expected, ok := want[filepath.Base(fd)]; ok && target != expected {
			t.Errorf("descriptor %s is %s, want %s", filepath.Base(fd), target, expected)
		}
		if target == leak.Name() {
			t.Errorf("the daemon has inherited %s", target)
		}
	}
	if flags, err := unix.FcntlInt(uintptr(inherited), unix.F_GETFD, 0); err != nil || flags != 0 {
		t.Errorf("our own descriptor has flags %d, %v: Start changed it", flags, err)
	}
	if cwd, err := os.Readlink("/proc/" + strconv.Itoa(d.Info().Process.PID) + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("working directory %q, %v", cwd, err)
	}
	if sid, err := unix.Getsid(d.Info().Process.PID); err != nil || sid != d.Info().Process.PID {
		t.Errorf("session %d, %v", sid, err)
	}
	if status := proc(t, d.Info().Process.PID, "status"); !strings.Contains(status, "Umask:\t0077\n") {
		t.Errorf("file mode mask:\n%s", status)
	}
	var core unix.Rlimit
	if err := unix.Prlimit(d.Info().Process.PID, unix.RLIMIT_CORE, nil, &core); err != nil || core.Cur != 1 || core.Max != 1 {
		t.Errorf("limit of core files: %+v, %v", core, err)
	}
}

func TestNoSecretOutsideTheMonitor(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	tool(t, "qemu-io", "-f", "raw", "-c", "write 0 64k", url(d))
	for _, name := range []string{"cmdline", "environ"} {
		expectNoSecret(t, name, proc(t, d.Info().Process.PID, name))
	}
	for _, name := range []string{stderrName, stateName} {
		data, err := os.ReadFile(filepath.Join(d.Info().Dir, name))
		must.OK(t, err)
		expectNoSecret(t, name, string(data))
	}
	if env := strings.Split(strings.Trim(proc(t, d.Info().Process.PID, "environ"), "\x00"), "\x00"); len(env) != 2 {
		t.Errorf("environment: %q", env)
	}
}

func expectNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range []string{passphrase, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"} { // and its base64
		if strings.Contains(text, secret) {
			t.Errorf("%s holds the passphrase: %s", where, text)
		}
	}
}

func TestRunsAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a daemon as another user")
	}
	const nobody, group = 65534, 4711
	images := shortDir(t)
	image := encryptedImage(t, images)
	must.OK(t, os.Chown(image, nobody, nobody))
	user := &Credential{UID: nobody, GID: nobody, Groups: []uint32{group}}
	d := mustStart(t, Options{User: user})
	must.OK(t, unlock(t, d, image, passphrase))
	must.OK(t, d.Export(testContext(t), Export{Node: "disk", Name: "vdb", Writable: true}))
	got, err := hostproc.CredentialOf(d.Info().Process.PID)
	if err != nil || got.UID != nobody || got.GID != nobody || len(got.Groups) != 1 || got.Groups[0] != group {
		t.Errorf("it runs as %+v, %v", got, err)
	}
	expectPrivate(t, d, nobody)
	tool(t, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", url(d))
	out := tool(t, "sh", "-c", `! setpriv --reuid 65533 --regid 65534 --clear-groups qemu-io -f raw -c "read 0 64k" "$1"`, "sh", url(d))
	if !strings.Contains(out, "Permission denied") {
		t.Errorf("another user was refused with %q", out)
	}
	info := d.Info()
	must.OK(t, Stop(testContext(t), info.Dir))
	checkGone(t, info)
}

func TestOpenFindsARunningDaemon(t *testing.T) {
	t.Parallel()
	first, _ := exported(t, Options{})
	must.OK(t, first.Close())
	second, err := Open(testContext(t), first.Info().Dir)
	must.OK(t, err)
	if second.Info() != first.Info() {
		t.Errorf("got %+v, want %+v", second.Info(), first.Info())
	}
	tool(t, "qemu-io", "-f", "raw", "-c", "write 0 64k", url(second)) // Close has left the export alone
	must.OK(t, second.Stop(testContext(t)))
	checkGone(t, first.Info())
}

func TestOpenOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := Open(testContext(t), filepath.Join(shortDir(t), "none")); !errors.Is(err, ErrNotRunning) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}

// The monitor has one client: a second client waits, and gets an error.
func TestOpenOfABusyMonitor(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, d.Info().Dir); !errors.Is(err, qmp.ErrNoGreeting) {
		t.Errorf("got %v, want ErrNoGreeting", err)
	}
}

// A socket that leads to another process gets no secret.
func TestOpenOfAnotherDaemonsMonitor(t *testing.T) {
	t.Parallel()
	one, other := mustStart(t, Options{}), mustStart(t, Options{})
	for _, d := range []*Daemon{one, other} {
		must.OK(t, d.Close())
	}
	must.OK(t, os.Remove(one.Info().Monitor))
	must.OK(t, os.Symlink(other.Info().Monitor, one.Info().Monitor))
	if _, err := Open(testContext(t), one.Info().Dir); !errors.Is(err, ErrDirectory) {
		t.Errorf("got %v, want ErrDirectory", err)
	}
}

// A QEMU gets the plain disk, and the daemon ends with it.
func TestServesAQEMU(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 3 0 64k", url(d))
	monitor := filepath.Join(shortDir(t), "vm.sock")
	vm := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none",
		"-chardev", "socket,id=m,server=on,wait=on,path="+monitor, "-mon", "chardev=m,mode=control")
	client := startVM(t, vm, monitor)
	_, err := client.Execute(testContext(t), qmp.Command{Execute: "blockdev-add", Arguments: qmp.Object{
		{Name: "node-name", Value: "vdb"}, {Name: "driver", Value: "nbd"}, {Name: "export", Value: "vdb"},
		{Name: "server", Value: qmp.Object{{Name: "type", Value: "unix"}, {Name: "path", Value: d.Socket()}}},
	}})
	must.OK(t, err)
	result := watch(testContext(t), d.Info().Dir, Process{PID: vm.Process.Pid})
	if _, err := client.Execute(testContext(t), qmp.Command{Execute: "quit"}); err != nil {
		t.Fatal(err)
	}
	must.OK(t, <-result)
	checkGone(t, d.Info())
}

// startVM starts a QEMU that waits for a client at its monitor, and is that client.
func startVM(t *testing.T, vm *exec.Cmd, monitor string) *qmp.Client {
	t.Helper()
	// QEMU says on its standard error when it listens.
	stderr, err := vm.StderrPipe()
	must.OK(t, err)
	must.OK(t, vm.Start())
	t.Cleanup(func() {
		_ = vm.Process.Kill() // it may have ended
		_ = vm.Wait()
	})
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "waiting for connection") {
		t.Log(lines.Text())
	}
	client, err := qmp.Dial(testContext(t), monitor)
	must.OK(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}
