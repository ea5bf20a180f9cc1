package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// expectNothing fails unless path does not exist.
func expectNothing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want nothing there", path, err)
	}
}

// TestStartFails: a program that does not start leaves nothing.
func TestStartFails(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	for kind, start := range map[string]func(dir, program string) error{
		"storage daemon": func(dir, program string) error {
			_, err := Start(testContext(t), Options{Dir: dir, Program: program, Timeout: timeout})
			return err
		},
		"helper": func(dir, program string) error {
			_, err := StartHelper(testContext(t), HelperOptions{Dir: dir, Program: program, Timeout: timeout})
			return err
		},
	} {
		for program, is := range map[string]func(err error, failed *StartError) bool{
			"no-such-program": func(err error, _ *StartError) bool { return errors.Is(err, exec.ErrNotFound) },
			"testdata/fail.sh": func(err error, failed *StartError) bool {
				return failed != nil && failed.Stderr == "no such option: --monitor" && strings.Contains(err.Error(), "exit status 3")
			},
			"testdata/deaf.sh": func(err error, failed *StartError) bool {
				return failed != nil && errors.Is(err, context.DeadlineExceeded)
			},
		} {
			dir := filepath.Join(shortDir(t), "d")
			err := start(dir, program)
			var failed *StartError
			errors.As(err, &failed)
			if !is(err, failed) {
				t.Errorf("%s, %s: got %v", kind, program, err)
			}
			expectNothing(t, dir)
			expectNothing(t, HelperSocket(dir))
		}
	}
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

// Of many that start a daemon in one directory at once, one succeeds.
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

func TestStartInAnEmptyDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "with, comma")
	must.OK(t, os.Mkdir(dir, 0o700))
	d := mustStart(t, Options{Dir: dir})
	if d.Socket() != filepath.Join(dir, "nbd.sock") {
		t.Errorf("socket %s", d.Socket())
	}
	if _, err := os.Lstat(d.Socket()); err != nil {
		t.Error(err)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make  func(dir string) error
		owner bool // the owner is wrong, which Inspect by root accepts
	}{
		"group may enter": {make: func(dir string) error { return mkdir(dir, 0o710) }},
		"world may read":  {make: func(dir string) error { return mkdir(dir, 0o704) }},
		"symbolic link": {make: func(dir string) error {
			return errors.Join(mkdir(dir+"-real", 0o700), os.Symlink(dir+"-real", dir))
		}},
		"regular file": {make: func(dir string) error { return os.WriteFile(dir, nil, 0o600) }},
		"pipe":         {make: func(dir string) error { return unix.Mkfifo(dir, 0o600) }},
		"other files": {owner: true, make: func(dir string) error {
			return errors.Join(mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600))
		}},
		"another's": {owner: true, make: func(dir string) error {
			return errors.Join(mkdir(dir, 0o700), os.Chown(dir, 65534, 65534))
		}},
		"state is a pipe": {make: func(dir string) error {
			return errors.Join(mkdir(dir, 0o700), unix.Mkfifo(filepath.Join(dir, stateName), 0o600))
		}},
		"state names init":     {make: func(dir string) error { return makeState(dir, `{"pid":1,"start":1}`) }},
		"state names no start": {make: func(dir string) error { return makeState(dir, `{"pid":4711}`) }},
		"state is no JSON":     {make: func(dir string) error { return makeState(dir, "pid 4711") }},
		"state leads elsewhere": {make: func(dir string) error {
			return errors.Join(mkdir(dir, 0o700), os.Symlink("/etc/passwd", filepath.Join(dir, stateName)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "another's" && os.Geteuid() != 0 {
				t.Skip("only root can create a directory of another user")
			}
			dir := filepath.Join(shortDir(t), "d")
			must.OK(t, c.make(dir))
			before := list(t, filepath.Dir(dir))
			if _, err := Start(testContext(t), Options{Dir: dir}); err == nil {
				t.Error("Start: no error")
			} else if name != "state leads elsewhere" && !errors.Is(err, ErrDirectory) {
				t.Errorf("Start: %v, want ErrDirectory", err)
			}
			if after := list(t, filepath.Dir(dir)); after != before {
				t.Errorf("Start has changed\n%s\nto\n%s", before, after)
			}
			if _, err := Inspect(dir); err == nil {
				t.Error("Inspect: no error")
			}
			if c.owner {
				return
			}
			if err := Stop(testContext(t), dir); err == nil {
				t.Error("Stop: no error")
			}
		})
	}
}

// TestUntrustedDaemonDirectory: no daemon is started, found or ended in a directory whose
// parent another user can change, who could put a directory of another daemon there.
func TestUntrustedDaemonDirectory(t *testing.T) {
	t.Parallel()
	parent := shortDir(t)
	dir := filepath.Join(parent, "d")
	must.OK(t, makeState(dir, `{"pid":4711,"start":1}`), os.Chmod(parent, 0o777))
	_, inspected := Inspect(dir)
	_, started := Start(testContext(t), Options{Dir: dir + "2"})
	for what, err := range map[string]error{"Inspect": inspected, "Start": started, "Stop": Stop(testContext(t), dir)} {
		if !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: %v, want ErrUntrusted", what, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, stateName)); err != nil {
		t.Errorf("the directory has changed: %v", err)
	}
	if _, err := os.Stat(dir + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

func mkdir(dir string, mode fs.FileMode) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)) // regardless of the umask
}

func makeState(dir, text string) error {
	return errors.Join(mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600))
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
	must.OK(t, err)
	return b.String()
}

func TestDirectoryThatIsTooLong(t *testing.T) {
	t.Parallel()
	base := shortDir(t)
	longest := filepath.Join(base, strings.Repeat("x", 98-len(base)-1))
	_, err := Start(testContext(t), Options{Dir: longest + "x"})
	_, helperErr := StartHelper(testContext(t), HelperOptions{Dir: longest + "x"})
	for _, err := range []error{err, helperErr} {
		if !errors.Is(err, ErrPathTooLong) {
			t.Errorf("got %v, want ErrPathTooLong", err)
		}
	}
	expectNothing(t, longest+"x")
	mustStart(t, Options{Dir: longest})
}

// TestStartRefuses: a start with impossible options leaves nothing.
func TestStartRefuses(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(testContext(t))
	cancel()
	private := filepath.Join(shortDir(t), "p")
	must.OK(t, mkdir(private, 0o700), os.WriteFile(filepath.Join(private, "program"), []byte("#!/bin/sh\n"), 0o755))
	root := os.Geteuid() == 0
	for name, c := range map[string]struct {
		ctx  context.Context
		o    Options
		want error
		text string
		skip bool
	}{
		"without parent":                {o: Options{Dir: "no/d"}, want: fs.ErrNotExist},
		"canceled":                      {ctx: canceled, want: context.Canceled},
		"program that the user may not": {o: Options{Program: filepath.Join(private, "program"), User: &Credential{UID: 65534, GID: 65534}}, want: fs.ErrPermission, text: "user 65534", skip: !root},
		"another user without root":     {o: Options{User: &Credential{UID: 0, GID: 0}}, want: fs.ErrPermission, text: "only root", skip: root},
	} {
		if c.skip {
			continue
		}
		if c.ctx == nil {
			c.ctx = testContext(t)
		}
		dir := filepath.Join(shortDir(t), cmp.Or(c.o.Dir, "d"))
		c.o.Dir = dir
		if _, err := Start(c.ctx, c.o); !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: got %v, want %v and %q", name, err, c.want, c.text)
		}
		expectNothing(t, dir)
	}
}

// Naming this process's own user needs no privilege.
func TestStartAsOurselves(t *testing.T) {
	t.Parallel()
	self, err := hostproc.CredentialOf(os.Getpid())
	must.OK(t, err)
	d := mustStart(t, Options{User: self})
	if got, err := hostproc.CredentialOf(d.Info().Process.PID); err != nil || got.UID != self.UID || got.GID != self.GID {
		t.Errorf("it runs as %+v, %v", got, err)
	}
}

// TestTied: a daemon that is tied to its starter lives as long as that, whichever of its threads end. That it is killed with the
// starter is tested where a process uses that.
func TestTied(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{Tied: true})
	for range 100 {
		must.OK(t, hostproc.OnThread(func() error { return nil }))
	}
	if !d.Info().Process.Alive() {
		t.Error("it has ended")
	}
	info := d.Info()
	must.OK(t, d.Stop(testContext(t)))
	checkGone(t, info)
	_, err := Start(testContext(t), Options{Dir: filepath.Join(shortDir(t), "d"), Program: "testdata/fail.sh", Tied: true})
	if failed := (*StartError)(nil); !errors.As(err, &failed) {
		t.Errorf("one that does not start: %v", err)
	}
}
