package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

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
	if _, err := p.open(); !errors.Is(err, errGone) {
		t.Errorf("got %v, want errGone", err)
	}
}

// A wait that is cut short leaves the handle usable.
func TestWaitAgain(t *testing.T) {
	t.Parallel()
	cmd := sleeper(t)
	h, err := Process{PID: cmd.Process.Pid}.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	cancelled, cancel := context.WithCancel(testContext(t))
	cancel()
	for range 10 {
		if err := h.wait(cancelled); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
	}
	if ended, err := h.ended(); ended || err != nil {
		t.Errorf("ended: %v, %v", ended, err)
	}
	if err := h.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.wait(testContext(t)); err != nil { // though nobody has reaped it
		t.Fatal(err)
	}
	if ended, err := h.ended(); !ended || err != nil {
		t.Errorf("ended: %v, %v", ended, err)
	}
	if _, err := (Process{PID: cmd.Process.Pid}).open(); !errors.Is(err, errGone) {
		t.Errorf("a zombie: %v, want errGone", err)
	}
}

// Root does not signal what the folder's owner could not signal.
func TestStateThatNamesAnotherUsersProcess(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a folder of another's")
	}
	victim := sleeper(t)
	p, err := ProcessOf(victim.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shortDir(t), "d")
	writeState(t, dir, `{"pid":`+strconv.Itoa(p.PID)+`,"start":`+strconv.FormatUint(p.Start, 10)+`}`)
	if _, err := Inspect(dir); err != nil { // ours is fine
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := Stop(testContext(t), dir); !errors.Is(err, ErrFolder) {
		t.Errorf("got %v, want ErrFolder", err)
	}
	if now, err := ProcessOf(p.PID); err != nil || now != p {
		t.Errorf("the process: %v, %v", now, err)
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
