package exec_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/exec"
)

func Example() {
	store, err := exec.New(`/bin/sh -c '[ "$LUKSPLUG_SECRET_USAGE" = /x ] || exit 2; echo aGVsbG8='`, exec.Options{})
	if err != nil {
		panic(err)
	}
	for _, usage := range []string{"/x", "/y"} {
		secret, err := store.Lookup(context.Background(), secrets.Reference{Type: secrets.Passphrase, Usage: usage})
		fmt.Println(secret.Len(), errors.Is(err, secrets.ErrNotFound))
		secret.Wipe()
	}
	// Output:
	// 9 false
	// 0 true
}

// asProgram as the first argument makes this test binary the store's program; the
// second argument is the directory with the values.
const asProgram = "answer-as-program"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asProgram {
		os.Exit(answer(os.Args[2]))
	}
	// The race detector delays the exit of each program by a second.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func answer(dir string) int {
	if _, err := os.Stat(filepath.Join(dir, "hang")); err == nil {
		time.Sleep(time.Hour)
	}
	name := fileName(os.Getenv("LUKSPLUG_SECRET_TYPE"), os.Getenv("LUKSPLUG_SECRET_UUID"), os.Getenv("LUKSPLUG_SECRET_USAGE"))
	for suffix, status := range map[string]int{".denied": 3, ".locked": 4} {
		if _, err := os.Stat(filepath.Join(dir, name+suffix)); err == nil {
			return status
		}
	}
	value, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 2
	}
	if _, err := os.Stdout.Write(value); err != nil {
		return 1
	}
	return 0
}

// fileName returns the name of the file of a value, at most 200 bytes long.
func fileName(kind, id, usage string) string {
	if id != "" {
		return id
	}
	name := kind + "-" + hex.EncodeToString([]byte(usage))
	return name[:min(len(name), 200)]
}

func TestStore(t *testing.T) {
	t.Parallel()
	self := must.Get(os.Executable())(t)
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		dir := t.TempDir()
		program := filepath.Join(dir, "program")
		must.OK(t, os.Symlink(self, program))
		command := must.Get(json.Marshal([]string{program, asProgram, dir}))(t)
		timeout := time.Minute // the machine may be busy
		if strings.HasSuffix(t.Name(), "/hanging") {
			timeout = time.Second
		}
		store := must.Get(exec.New(string(command), exec.Options{Timeout: timeout}))(t)
		name := func(ref secrets.Reference) string {
			if ref.Usage != "" {
				return filepath.Join(dir, fileName(string(ref.Type), "", ref.Usage))
			}
			return filepath.Join(dir, ref.UUID.String())
		}
		return storetest.Fixture{
			Store: store,
			Put:   func(t *testing.T, ref secrets.Reference, value []byte) { must.Write(t, name(ref), value) },
			Deny:  func(t *testing.T, ref secrets.Reference) { must.Write(t, name(ref)+".denied", "") },
			Lock: func(t *testing.T) {
				values := must.Get(os.ReadDir(dir))(t)
				for _, v := range values {
					must.Write(t, filepath.Join(dir, v.Name()+".locked"), "")
				}
			},
			Break: func(t *testing.T) {
				must.OK(t, os.Remove(program))
			},
			Hang: func(t *testing.T) { must.Write(t, filepath.Join(dir, "hang"), "") },
		}
	})
}

// shell returns a store whose program is a shell script.
func shell(t *testing.T, script string, o exec.Options) *exec.Store {
	t.Helper()
	command := must.Get(json.Marshal([]string{"/bin/sh", "-c", script}))(t)
	store := must.Get(exec.New(string(command), o))(t)
	return store
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]error{
		"printf x":                        nil,
		"exit 0":                          secrets.ErrNoValue,
		"printf confidential; exit 1":     secrets.ErrUnreachable,
		"printf confidential; exit 2":     secrets.ErrNotFound,
		"printf confidential; exit 3":     secrets.ErrDenied,
		"exit 4":                          secrets.ErrLocked,
		"exit 127":                        secrets.ErrUnreachable,
		"printf confidential; kill -9 $$": secrets.ErrUnreachable,
		"exec cat /dev/zero":              secrets.ErrUnreachable,
	} {
		secret, err := shell(t, script, exec.Options{}).Lookup(t.Context(), storetest.ByUUID())
		if (secret == nil) != (want != nil) || !errors.Is(err, want) {
			t.Errorf("%s: %v", script, err)
		}
		if err == nil {
			continue
		}
		// Only in the cause: the store's name contains the command.
		if cause := errors.Unwrap(err); strings.Contains(cause.Error(), "confidential") {
			t.Errorf("%s: the error contains the output: %v", script, cause)
		}
	}
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	file := must.File(t, "")
	for command, want := range map[string]error{
		"/nonexistent/program": secrets.ErrUnreachable, "no-program-of-this-name": secrets.ErrUnreachable,
		file: secrets.ErrDenied, t.TempDir(): secrets.ErrDenied,
	} {
		store := must.Get(exec.New(command, exec.Options{}))(t)
		if _, err := store.Lookup(t.Context(), storetest.ByUUID()); !errors.Is(err, want) || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestMessagesArePassedOn(t *testing.T) {
	t.Parallel()
	var messages bytes.Buffer
	_, err := shell(t, "echo 'sealed: ask Bob' >&2; exit 1", exec.Options{Stderr: &messages}).Lookup(t.Context(), storetest.ByUUID())
	if messages.String() != "sealed: ask Bob\n" || errors.Unwrap(err) == nil || strings.Contains(errors.Unwrap(err).Error(), "Bob") {
		t.Errorf("messages %q, error %v", &messages, err)
	}
}

func TestEnvironment(t *testing.T) {
	// Not parallel: it changes this process's environment, to which it adds
	// another reference.
	t.Setenv("LUKSPLUG_SECRET_USAGE", "/another")
	t.Setenv("LUKSPLUG_TEST_EXEC", "inherited")
	ref := storetest.ByUUID()
	store := shell(t, `printf '%s|' "$LUKSPLUG_SECRET_TYPE" "$LUKSPLUG_SECRET_UUID" "$LUKSPLUG_SECRET_USAGE" "$LUKSPLUG_TEST_EXEC"; cat`, exec.Options{})
	for _, ref := range []secrets.Reference{ref, {Type: secrets.Ceph, Usage: "client.a b\n$x"}} {
		secret := must.Get(store.Lookup(t.Context(), ref))(t)
		id := ""
		if ref.Usage == "" {
			id = ref.UUID.String()
		}
		want := fmt.Sprintf("%s|%s|%s|inherited|", ref.Type, id, ref.Usage)
		if !secret.Equal(secrets.New([]byte(want))) {
			t.Errorf("want %q, got %d bytes", want, secret.Len())
		}
	}
}

// TestChildrenEnd checks that the children of the program end with it.
func TestChildrenEnd(t *testing.T) {
	t.Parallel()
	pidFile := filepath.Join(t.TempDir(), "pid")
	store := shell(t, `sleep 3600 & echo $! >`+pidFile+`; wait`, exec.Options{Timeout: time.Second})
	begin := time.Now()
	_, err := store.Lookup(t.Context(), storetest.ByUUID())
	if !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), "1s") {
		t.Error(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	text := must.Get(os.ReadFile(pidFile))(t)
	pid := must.Get(strconv.Atoi(strings.TrimSpace(string(text))))(t)
	deadline := time.Now().Add(10 * time.Second)
	for !ended(pid) {
		if time.Now().After(deadline) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatal("a child of the program is still running")
		}
		time.Sleep(5 * time.Millisecond) // no event reports the end of another process's child
	}
}

// ended reports whether the process does not exist or is a zombie.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// TestOutputThatStaysOpen has a child outside of the process group keep the output open.
func TestOutputThatStaysOpen(t *testing.T) {
	t.Parallel()
	must.Have(t, "setsid")
	pidFile := filepath.Join(t.TempDir(), "pid")
	store := shell(t, `setsid sh -c 'echo $$ >`+pidFile+`; exec sleep 60' & while [ ! -s `+pidFile+` ]; do :; done; printf x`, exec.Options{Timeout: 2 * time.Second})
	secret, err := store.Lookup(t.Context(), storetest.ByUUID())
	if secret != nil || !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
	if text, err := os.ReadFile(pidFile); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
	}
}
