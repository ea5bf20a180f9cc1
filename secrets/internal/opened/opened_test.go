package opened_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
)

func needKeyring(t *testing.T) {
	t.Helper()
	if err := opened.Check(); err != nil {
		t.Skipf("the kernel keeps no keys here: %v", err)
	}
}

// name returns the name of a key of this test only, which is destroyed after it.
func name(t *testing.T) string {
	t.Helper()
	needKeyring(t)
	n := "test:" + filepath.Join(t.TempDir(), "x")
	t.Cleanup(func() { _, err := opened.Forget(n); must.OK(t, err) })
	return n
}

func secret(text string) *secrets.Secret { return secrets.New([]byte(text)) }

// found returns the kept key, "" for none, and the state.
func found(t *testing.T, name string, b opened.Binding) (string, secrets.LockState) {
	t.Helper()
	key, state := opened.Find(name, b)
	defer key.Wipe()
	if (key != nil) != state.Unlocked || !state.Protected {
		t.Errorf("key %v, state %+v", key != nil, state)
	}
	var out []byte
	if key != nil {
		must.OK(t, key.Use(func(b []byte) error { out = bytes.Clone(b); return nil }))
	}
	return string(out), state
}

func keep(t *testing.T, name, key string, b opened.Binding, limit secrets.Limit) time.Time {
	t.Helper()
	until, err := opened.Keep(name, secret(key), b, limit)
	must.OK(t, err)
	return until
}

func TestKeptAndForgotten(t *testing.T) {
	t.Parallel()
	n, b := name(t), opened.Bind(secret("file"))
	if key, state := found(t, n, b); key != "" || state.Ended != "" {
		t.Errorf("%q, %+v", key, state)
	}
	for _, key := range []string{"first", "second\nwith \x00 bytes", strings.Repeat("x", 30000)} {
		if until := keep(t, n, key, b, secrets.Limit{}); !until.IsZero() {
			t.Errorf("without a limit, until %s", until)
		}
		if got, state := found(t, n, b); got != key || !state.Until.IsZero() || state.Suspend {
			t.Errorf("kept %q, found %q, %+v", key, got, state)
		}
	}
	if key, state := found(t, n, opened.Bind(secret("another file"))); key != "" || !strings.Contains(state.Ended, "replaced") {
		t.Errorf("%q, %+v", key, state)
	}
	if key, _ := found(t, n+"y", b); key != "" {
		t.Errorf("of another name: %q", key)
	}
	for _, want := range []bool{true, false} {
		if got, err := opened.Forget(n); got != want || err != nil {
			t.Errorf("%t, %v", got, err)
		}
		if key, state := found(t, n, b); key != "" || state.Ended != "" {
			t.Errorf("after Forget: %q, %+v", key, state)
		}
	}
	if _, err := opened.Keep(n, secret(strings.Repeat("x", 40000)), b, secrets.Limit{}); !errors.Is(err, secrets.ErrTooLong) {
		t.Error(err)
	}
}

// TestTimeEnds: the kernel destroys the key by itself.
func TestTimeEnds(t *testing.T) {
	t.Parallel()
	n, b := name(t), opened.Binding{}
	before := time.Now()
	const limit = 500 * time.Millisecond
	until := keep(t, n, "key", b, secrets.Limit{For: limit})
	if until.Before(before.Add(limit-time.Millisecond)) || until.After(time.Now().Add(limit)) {
		t.Errorf("until %s", until)
	}
	if text := kernelKey(t, n); !strings.Contains(text, "s 003f0000 ") {
		t.Errorf("the kernel has no time-out: %q", text)
	}
	for {
		late := time.Now().After(until)
		key, state := found(t, n, b)
		if key == "" {
			if !strings.Contains(state.Ended, "time has ended") {
				t.Errorf("%+v", state)
			}
			if time.Now().Before(until) {
				t.Errorf("it has ended before %s", until)
			}
			break
		}
		if late {
			t.Fatalf("found after %s", until)
		}
		time.Sleep(5 * time.Millisecond)
	}
	// The kernel has its own clock.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "luksplug:"+n, 0)
		if errors.Is(err, unix.EKEYEXPIRED) || errors.Is(err, unix.ENOKEY) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the kernel still has it: %v", err)
		}
	}
	if key, _ := found(t, n, b); key != "" {
		t.Errorf("found %q", key)
	}
	keep(t, n, "again", b, secrets.Limit{})
	if key, _ := found(t, n, b); key != "again" {
		t.Errorf("after its end it cannot be kept again: %q", key)
	}
}

// kernelKey returns the line of a key in the kernel's list, "" for none.
func kernelKey(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(string(must.Get(os.ReadFile("/proc/keys"))(t))) {
		if strings.Contains(line, "luksplug:"+name+":") {
			return line
		}
	}
	return ""
}

// TestOnlyTheOwner: a process with another user id cannot read, see, change or remove the
// key, also if it inherits a session keyring in which it possesses it.
func TestOnlyTheOwner(t *testing.T) {
	t.Parallel()
	const variable, other = "LUKSPLUG_OPENED_NAME", 64997
	if n := os.Getenv(variable); n != "" {
		id := must.Get(unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false))(t)
		key, err := unix.KeyctlSearch(id, "user", "luksplug:"+n, 0)
		fmt.Printf("search %d %v\n", key, err)
		for _, line := range strings.Split(os.Getenv("LUKSPLUG_OPENED_ID"), " ") {
			var serial int
			must.Get(fmt.Sscan(line, &serial))(t)
			buffer := make([]byte, 100)
			got, err := unix.KeyctlBuffer(unix.KEYCTL_READ, serial, buffer, 0)
			fmt.Printf("read %d %v\n", got, err)
			_, err = unix.KeyctlInt(unix.KEYCTL_REVOKE, serial, 0, 0, 0)
			fmt.Printf("revoke %v\n", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root has other users' processes")
	}
	n, b := name(t), opened.Binding{}
	keep(t, n, "key", b, secrets.Limit{})
	if line := kernelKey(t, n); !strings.Contains(line, " 003f0000 ") {
		t.Errorf("the permissions of the key: %q", line)
	}
	serial := must.Get(unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "luksplug:"+n, 0))(t)
	program := filepath.Join(t.TempDir(), "test")
	must.OK(t, os.Link(must.Get(os.Executable())(t), program))
	for dir := filepath.Dir(program); dir != "/"; dir = filepath.Dir(dir) {
		if info := must.Get(os.Stat(dir))(t); info.Mode()&0o001 == 0 {
			must.OK(t, os.Chmod(dir, info.Mode()|0o011))
		}
	}
	// A session keyring with a link to the user keyring, as pam_keyinit makes it.
	var out []byte
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		_, err := unix.KeyctlJoinSessionKeyring("luksplug-test")
		if err == nil {
			_, err = unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
		}
		if err == nil {
			cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(other), "--regid", fmt.Sprint(other), "--clear-groups", "--", program, "-test.run=^TestOnlyTheOwner$")
			cmd.Env = append(os.Environ(), variable+"="+n, fmt.Sprintf("LUKSPLUG_OPENED_ID=%d", serial))
			out, err = cmd.CombinedOutput()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"read -1 permission denied", "revoke permission denied"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("another user's process: %s", out)
		}
	}
	if !strings.Contains(string(out), "search -1 ") {
		t.Errorf("another user's process finds the key: %s", out)
	}
	if key, _ := found(t, n, b); key != "key" {
		t.Errorf("after it: %q", key)
	}
}

// TestForgetAll runs in a user namespace, which has keyrings of its own: it destroys the keys
// of all tests.
func TestForgetAll(t *testing.T) {
	t.Parallel()
	const variable = "LUKSPLUG_OPENED_NAMESPACE"
	if os.Getenv(variable) == "" {
		needKeyring(t)
		cmd := exec.Command(must.Get(os.Executable())(t), "-test.run=^TestForgetAll$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EINVAL):
			t.Skipf("there are no user namespaces here: %v", err)
		case err != nil || !strings.Contains(string(out), "--- PASS: TestForgetAll"):
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	n, b := name(t), opened.Binding{}
	m := n + "-suspend"
	keep(t, n, "key", b, secrets.Limit{})
	keep(t, m, "key", b, secrets.Limit{Suspend: true})
	if _, state := found(t, m, b); !state.Suspend {
		t.Errorf("%+v", state)
	}
	names, err := opened.ForgetAll(true)
	if err != nil || !strings.Contains(strings.Join(names, "\n"), m) {
		t.Errorf("%q, %v", names, err)
	}
	key, _ := found(t, n, b)
	ended, state := found(t, m, b)
	if key != "key" || ended != "" || state.Ended != "" {
		t.Errorf("%q, %q, %+v", key, ended, state)
	}
	keep(t, m, "key", b, secrets.Limit{Suspend: true})
	other := must.Get(unix.AddKey("user", "another program's", []byte("key"), unix.KEY_SPEC_USER_KEYRING))(t)
	if names, err := opened.ForgetAll(false); err != nil || len(names) != 2 {
		t.Errorf("%q, %v", names, err)
	}
	for _, n := range []string{n, m} {
		if key, _ := found(t, n, b); key != "" {
			t.Errorf("%s is still kept", n)
		}
	}
	if _, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, other); err != nil {
		t.Errorf("another program's key: %v", err)
	}
	if names, err := opened.ForgetAll(false); err != nil || len(names) != 0 {
		t.Errorf("again: %q, %v", names, err)
	}
}

// TestSimultaneously: each look-up finds a whole key or none.
func TestSimultaneously(t *testing.T) {
	t.Parallel()
	n, b := name(t), opened.Binding{}
	var wg sync.WaitGroup
	for i := range 4 {
		key := strings.Repeat(string(rune('a'+i)), 1000+i)
		wg.Go(func() {
			for range 50 {
				keep(t, n, key, b, secrets.Limit{})
			}
		})
		wg.Go(func() {
			for range 100 {
				got, _ := found(t, n, b)
				if got != "" && (len(got) != 1000+int(got[0]-'a') || strings.Trim(got, got[:1]) != "") {
					t.Errorf("a mixed key of %d bytes", len(got))
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			_, err := opened.Forget(n)
			must.OK(t, err)
		}
	})
	wg.Wait()
}

// TestForeignContent: what another program has put under the name is no key.
func TestForeignContent(t *testing.T) {
	t.Parallel()
	n := name(t)
	for _, text := range []string{"x", "luksplug-key 1\nkey", "luksplug-key 2 00 0 0 false 0\nkey", strings.Repeat("y", 1000)} {
		must.Get(unix.AddKey("user", "luksplug:"+n, []byte(text), unix.KEY_SPEC_USER_KEYRING))(t)
		if key, state := found(t, n, opened.Binding{}); key != "" || !strings.Contains(state.Ended, "another version") {
			t.Errorf("%q: %q, %+v", text, key, state)
		}
	}
}
