package hostproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStart(t *testing.T) {
	t.Parallel()
	tail := " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2"
	for _, c := range []struct {
		name, stat string
		want       uint64
		fails      bool
	}{
		{name: "plain", stat: "12 (sleep) S" + tail, want: 987654},
		{name: "name with parentheses", stat: "12 (a) S 1) (b) S" + tail, want: 987654},
		{name: "zombie", stat: "12 (sleep) Z" + tail, want: 987654},
		{name: "short", stat: "12 (sleep) S 1 2", fails: true},
		{name: "no name", stat: "12 sleep S" + tail, fails: true},
		{name: "empty", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStart(12, c.stat)
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

func TestHandleOfAnEarlierProcess(t *testing.T) {
	t.Parallel()
	p, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p.Start--
	if _, err := p.Open(); !errors.Is(err, ErrEnded) {
		t.Errorf("got %v, want ErrEnded", err)
	}
	if p.Alive() {
		t.Error("an earlier process of the same id is alive")
	}
	p.Start++
	if !p.Alive() {
		t.Error("this process is not alive")
	}
}

// sleeper starts a process that ends with the test.
func sleeper(t *testing.T, environment ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = environment
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// TestWaitAgain: a wait that is interrupted leaves the handle usable.
func TestWaitAgain(t *testing.T) {
	t.Parallel()
	cmd := sleeper(t)
	h, err := Process{PID: cmd.Process.Pid}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		if err := h.Wait(cancelled); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
	}
	if ended, err := h.Ended(); ended || err != nil {
		t.Errorf("ended: %v, %v", ended, err)
	}
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context()); err != nil { // though it is not reaped yet
		t.Fatal(err)
	}
	if ended, err := h.Ended(); !ended || err != nil {
		t.Errorf("ended: %v, %v", ended, err)
	}
	if _, err := (Process{PID: cmd.Process.Pid}).Open(); !errors.Is(err, ErrEnded) {
		t.Errorf("a zombie: %v, want ErrEnded", err)
	}
}

func TestCredentialOf(t *testing.T) {
	t.Parallel()
	c, err := CredentialOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var want []uint32
	for _, g := range groups {
		want = append(want, uint32(g))
	}
	if int(c.UID) != os.Geteuid() || int(c.GID) != os.Getegid() || !slices.Equal(c.Groups, want) {
		t.Errorf("got %+v", c)
	}
	for _, text := range []string{"", "Uid:\t1\nGid:\t1 1 1 1\nGroups:\t\n", "Uid:\t1 x 1 1\n"} {
		if _, err := parseCredential(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestGetenv(t *testing.T) {
	t.Parallel()
	cmd := sleeper(t, "AB=wrong", "A=b=c", "EMPTY=")
	// execve(2) replaces the memory before it fills in the environment, and Start
	// returns in between.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid)); err != nil || len(text) > 0 {
			break
		}
	}
	for name, want := range map[string]string{"A": "b=c", "EMPTY": ""} {
		if got, ok := Getenv(cmd.Process.Pid, name); got != want || !ok {
			t.Errorf("%s: got %q, %t", name, got, ok)
		}
	}
	if got, ok := Getenv(cmd.Process.Pid, "B"); ok {
		t.Errorf("got %q for a variable that is not set", got)
	}
}
