package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// expectNothing fails unless path does not exist.
func expectNothing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want nothing there", path, err)
	}
}

func TestStartWithoutProgram(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	_, err := Start(testContext(t), Options{Dir: dir, Program: "no-such-storage-daemon"})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want exec.ErrNotFound", err)
	}
	expectNothing(t, dir)
}

func TestStartOfAProgramThatFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	_, err := Start(testContext(t), Options{Dir: dir, Program: "testdata/fail.sh"})
	var failed *StartError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v, want a StartError", err)
	}
	if failed.Stderr != "no such option: --monitor" || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %+v: %v", failed, err)
	}
	expectNothing(t, dir)
}

func TestStartOfAProgramThatIsDeaf(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	_, err := Start(testContext(t), Options{Dir: dir, Program: "testdata/deaf.sh", Timeout: 300 * time.Millisecond})
	var failed *StartError
	if !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a StartError by time-out", err)
	}
	expectNothing(t, dir)
}

func TestStartTwice(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	if _, err := Start(testContext(t), Options{Dir: d.Info().Dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v, want ErrRunning", err)
	}
	if _, err := Inspect(d.Info().Dir); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// Of many that start a daemon in one folder at once, one succeeds.
func TestStartAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	type result struct {
		d   *Daemon
		err error
	}
	results := make(chan result)
	const n = 4
	for range n {
		go func() {
			d, err := Start(testContext(t), Options{Dir: dir, Timeout: 30 * time.Second})
			results <- result{d, err}
		}()
	}
	var started []*Daemon
	for range n {
		r := <-results
		if r.err == nil {
			started = append(started, r.d)
		} else if !errors.Is(r.err, ErrRunning) {
			t.Errorf("got %v, want ErrRunning", r.err)
		}
	}
	if len(started) != 1 {
		t.Errorf("%d have started, want 1", len(started))
	}
	for _, d := range started {
		if err := d.Stop(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	expectNothing(t, dir)
}

func TestStartInAnEmptyFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "with, comma")
	must(t, os.Mkdir(dir, 0o700))
	d := mustStart(t, Options{Dir: dir})
	if d.Socket() != filepath.Join(dir, "nbd.sock") {
		t.Errorf("socket %s", d.Socket())
	}
	if _, err := os.Lstat(d.Socket()); err != nil {
		t.Error(err)
	}
}

func TestFoldersThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		make  func(t *testing.T, dir string)
		owner bool // of the folder is wrong, which root does not mind for Inspect
	}{
		{name: "group may enter", make: func(t *testing.T, dir string) { mkdir(t, dir, 0o710) }},
		{name: "world may look", make: func(t *testing.T, dir string) { mkdir(t, dir, 0o704) }},
		{name: "symbolic link", make: func(t *testing.T, dir string) {
			mkdir(t, dir+"-real", 0o700)
			must(t, os.Symlink(dir+"-real", dir))
		}},
		{name: "regular file", make: func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir, nil, 0o600))
		}},
		{name: "pipe", make: func(t *testing.T, dir string) {
			must(t, unix.Mkfifo(dir, 0o600))
		}},
		{name: "other files", owner: true, make: func(t *testing.T, dir string) {
			mkdir(t, dir, 0o700)
			must(t, os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600))
		}},
		{name: "another's", owner: true, make: func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can make a folder of another's")
			}
			mkdir(t, dir, 0o700)
			must(t, os.Chown(dir, 65534, 65534))
		}},
		{name: "state is a pipe", make: func(t *testing.T, dir string) {
			mkdir(t, dir, 0o700)
			must(t, unix.Mkfifo(filepath.Join(dir, stateName), 0o600))
		}},
		{name: "state names init", make: func(t *testing.T, dir string) { writeState(t, dir, `{"pid":1,"start":1}`) }},
		{name: "state names no start", make: func(t *testing.T, dir string) { writeState(t, dir, `{"pid":4711}`) }},
		{name: "state is no JSON", make: func(t *testing.T, dir string) { writeState(t, dir, "pid 4711") }},
		{name: "state leads elsewhere", make: func(t *testing.T, dir string) {
			mkdir(t, dir, 0o700)
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, stateName)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(shortDir(t), "d")
			c.make(t, dir)
			before := list(t, filepath.Dir(dir))
			if _, err := Start(testContext(t), Options{Dir: dir}); err == nil {
				t.Error("Start: no error")
			} else if c.name != "state leads elsewhere" && !errors.Is(err, ErrDirectory) {
				t.Errorf("Start: %v, want ErrDirectory", err)
			}
			if after := list(t, filepath.Dir(dir)); after != before {
				t.Errorf("Start has changed\n%s\nto\n%s", before, after)
			}
			if _, err := Inspect(dir); err == nil {
				t.Error("Inspect: no error")
			}
			if !c.owner {
				if err := Stop(testContext(t), dir); err == nil {
					t.Error("Stop: no error")
				}
			}
		})
	}
}

func mkdir(t *testing.T, dir string, mode fs.FileMode) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	if err := os.Chmod(dir, mode); err != nil { // Mkdir's mode is cut by the mask
		t.Fatal(err)
	}
}

func writeState(t *testing.T, dir, text string) {
	t.Helper()
	mkdir(t, dir, 0o700)
	must(t, os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600))
}

// list names all that is below dir, with modes.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			b.WriteString(info.Mode().String() + " " + path + "\n")
		}
		return err
	})
	must(t, err)
	return b.String()
}

func TestFolderThatIsTooLong(t *testing.T) {
	t.Parallel()
	base := shortDir(t)
	longest := filepath.Join(base, strings.Repeat("x", 98-len(base)-1))
	if _, err := Start(testContext(t), Options{Dir: longest + "x"}); !errors.Is(err, ErrPathTooLong) {
		t.Errorf("got %v, want ErrPathTooLong", err)
	}
	expectNothing(t, longest+"x")
	mustStart(t, Options{Dir: longest})
}

func TestFolderWithoutParent(t *testing.T) {
	t.Parallel()
	_, err := Start(testContext(t), Options{Dir: filepath.Join(shortDir(t), "no", "d")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestStartCancelled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	expectNothing(t, dir)
}

func TestStartOfAProgramThatTheUserMayNotRun(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a daemon as another user")
	}
	private := filepath.Join(shortDir(t), "p")
	mkdir(t, private, 0o700)
	program := filepath.Join(private, "program")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	dir := filepath.Join(shortDir(t), "d")
	_, err := Start(testContext(t), Options{Dir: dir, Program: program, User: &Credential{UID: 65534, GID: 65534}})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("got %v, want fs.ErrPermission and the user", err)
	}
	expectNothing(t, dir)
}

func TestStartAsAnotherUserWithoutRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may")
	}
	dir := filepath.Join(shortDir(t), "d")
	_, err := Start(testContext(t), Options{Dir: dir, User: &Credential{UID: 0, GID: 0}})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "only root") {
		t.Errorf("got %v, want fs.ErrPermission and the reason", err)
	}
	expectNothing(t, dir)
}

// Ourselves, spelled out, takes no privilege.
func TestStartAsOurselves(t *testing.T) {
	t.Parallel()
	self, err := hostproc.CredentialOf(os.Getpid())
	must(t, err)
	d := mustStart(t, Options{User: self})
	if got, err := hostproc.CredentialOf(d.Info().Process.PID); err != nil || got.UID != self.UID || got.GID != self.GID {
		t.Errorf("it runs as %+v, %v", got, err)
	}
}
