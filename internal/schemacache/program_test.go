package schemacache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// A program that another user could have made is not run.
func TestUntrustedPrograms(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		name  string
		spoil func(t *testing.T, path string)
		text  string
	}{
		"name":         {"sh", nil, "its name"},
		"foreign":      {"qemu-system", func(t *testing.T, path string) { chown(t, path, 65534) }, "belongs to user 65534"},
		"group writes": {"qemu-system", func(t *testing.T, path string) { must.OK(t, os.Chmod(path, 0o770)) }, "others may write"},
		"others write": {"kvm", func(t *testing.T, path string) { must.OK(t, os.Chmod(path, 0o702)) }, "others may write"},
		"directory": {"qemu", func(t *testing.T, path string) {
			must.OK(t, os.Remove(path))
			must.OK(t, os.Mkdir(path, 0o700))
		}, "no regular file"},
		"link": {"qemu", func(t *testing.T, path string) {
			must.OK(t, os.Rename(path, filepath.Join(filepath.Dir(path), "sh")))
			must.OK(t, os.Symlink("sh", path))
		}, "its name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := programDir(t)
			marker := filepath.Join(dir, "ran")
			path := qmptest.WriteProgram(t, filepath.Join(dir, test.name), "touch "+marker)
			if test.spoil != nil {
				test.spoil(t, path)
			}
			_, err := aside(qmptest.Context(t), path)
			if !errors.Is(err, ErrNotTrusted) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("the program was run")
			}
		})
	}
}

// The owner of a file proves nothing where other users may mount file systems.
func TestNosuidMount(t *testing.T) {
	t.Parallel()
	dir := programDir(t)
	errs := make(chan error, 1)
	go func() {
		// The mount is this thread's alone, and ends with it: it is never unlocked.
		runtime.LockOSThread()
		errs <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID, ""); err != nil {
				return err
			}
			path := filepath.Join(dir, "qemu")
			if err := os.WriteFile(path, nil, 0o700); err != nil {
				return err
			}
			p, err := openProgram(path)
			if err != nil {
				return err
			}
			defer p.close()
			return p.trust()
		}()
	}()
	err := <-errs
	if errors.Is(err, unix.EPERM) {
		t.Skip("only root can mount")
	}
	if !errors.Is(err, ErrNotTrusted) || !strings.Contains(err.Error(), "nosuid") {
		t.Errorf("%v", err)
	}
}

// The program of a process is found even when an update has replaced the file; but
// then it is not run any more.
func TestReplacedProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(programDir(t), "qemu-copy")
	text, err := os.ReadFile(qmptest.QEMUPath(t))
	must.OK(t, err)
	qmptest.WriteExecutable(t, path, text)
	v := startVM(t, path)
	before, err := openProcess(v.pid)
	must.OK(t, err)
	defer before.close()
	must.OK(t, before.trust())
	must.OK(t, os.Rename(path, path+"-old"))
	qmptest.WriteProgram(t, path, "exit 0")
	after, err := openProcess(v.pid)
	must.OK(t, err)
	defer after.close()
	// The path may be its new name, which is valid.
	if err := after.trust(); err != nil {
		t.Errorf("renamed: %v", err)
	}
	must.OK(t, os.Remove(path+"-old"))
	deleted, err := openProcess(v.pid)
	must.OK(t, err)
	defer deleted.close()
	if err := deleted.trust(); !errors.Is(err, ErrNotTrusted) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("deleted: %v", err)
	}
	var told reports
	cache := &Cache{Dir: t.TempDir(), Report: told.add}
	if _, asked := schemaOf(t, v.unix, cache); !asked || len(told.all()) != 1 || !errors.Is(told.all()[0], ErrNotTrusted) {
		t.Errorf("asked %v, reported %v", asked, told.all())
	}
	if _, asked := schemaOf(t, v.unix, cache); asked {
		t.Error("the VM was queried again")
	}
}

// A process that only made the socket is not taken for QEMU.
func TestProcessIsNoEmulator(t *testing.T) {
	t.Parallel()
	if p, err := openProcess(os.Getpid()); !errors.Is(err, ErrNotTrusted) {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := openProcess(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// The end of the context kills an emulator that says nothing, with its children.
func TestAsideCancelled(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	must.OK(t, unix.Mkfifo(pipe, 0o600))
	emulator := fakeEmulator(t, "silent", fmt.Sprintf("sleep 1000 & echo $$ $! > '%s'", pipe))
	ctx, cancel := context.WithCancel(qmptest.Context(t))
	defer cancel()
	errs := qmptest.Start(ctx, aside, emulator)
	var pid, child int
	_, err := fmt.Sscan(mustRead(t, pipe), &pid, &child) // returns when both have started
	must.OK(t, err)
	process, err := hostproc.Process{PID: child}.Open()
	must.OK(t, err)
	defer process.Close()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the emulator lives, or is not reaped: %v", err)
	}
	if err := process.Wait(qmptest.Context(t)); err != nil {
		t.Errorf("its child lives: %v", err)
	}
}

// The emulator aside inherits no variables, no terminal and no process group.
func TestAsideEnvironment(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	emulator := fakeEmulator(t, "9", fmt.Sprintf(`cd /proc/$$/fd; echo $(env | cut -d= -f1 | sort) > '%[1]s'
for fd in 0 2; do readlink $fd; done >> '%[1]s'
read -r pid name state parent group rest < /proc/$$/stat; echo group $((group - $$)) >> '%[1]s'`, log))
	own, err := aside(qmptest.Context(t), emulator)
	must.OK(t, err)
	if own.id.Version != "9.0.0 (fake)" || own.id.Target != "x86_64" || string(own.raw) != "[]" {
		t.Errorf("%+v", own)
	}
	// The shell sets PWD and OLDPWD itself.
	if text := mustRead(t, log); text != "LC_ALL OLDPWD PATH PWD\n/dev/null\n/dev/null\ngroup 0\n" {
		t.Error(text)
	}
}

// BenchmarkSources measures the two sources that do not query the VM.
func BenchmarkSources(b *testing.B) {
	own, err := aside(qmptest.Context(b), qmptest.QEMUPath(b))
	must.OK(b, err)
	cache := &Cache{Dir: b.TempDir(), Emulator: qmptest.QEMUPath(b), Report: func(err error) { b.Error(err) }}
	id := testID
	id.Version, id.Target = own.id.Version, own.id.Target
	if cache.Schema(qmptest.Context(b), id) == nil {
		b.Fatal("no schema")
	}
	b.Run("cache", func(b *testing.B) {
		for b.Loop() {
			if cache.Schema(context.Background(), id) == nil {
				b.Fatal("no schema")
			}
		}
	})
	b.Run("aside", func(b *testing.B) {
		for b.Loop() {
			_, err := aside(context.Background(), cache.Emulator)
			must.OK(b, err)
		}
	})
}
