package dialing_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/must"
)

// TestUnix dials each kind of file.
func TestUnix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must.OK(t, os.WriteFile(at("file"), nil, 0o600))
	must.OK(t, os.Symlink("loop", at("loop")))
	must.OK(t, os.Symlink("nowhere", at("dangling")))
	must.OK(t, unix.Mkfifo(at("pipe"), 0o600))
	dead := must.Get(net.Listen("unix", at("dead")))(t)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	must.OK(t, dead.Close())
	other := must.Get(net.ListenPacket("unixgram", at("datagram")))(t)
	t.Cleanup(func() { _ = other.Close() })
	for path, want := range map[string]struct {
		kind dialing.Kind
		text string
	}{
		"":                                {dialing.Address, "empty"},
		at(strings.Repeat("a", 200)):      {dialing.Address, "at most 107"},
		at("missing"):                     {dialing.Missing, "no such socket"},
		at("dangling"):                    {dialing.Missing, "no such socket"},
		filepath.Join(at("file"), "sock"): {dialing.Missing, "no such socket"},
		at("file"):                        {dialing.NotSocket, "a regular file"},
		dir:                               {dialing.NotSocket, "a directory"},
		at("pipe"):                        {dialing.NotSocket, "a named pipe"},
		"/dev/null":                       {dialing.NotSocket, "a character device"},
		at("loop"):                        {dialing.NotSocket, "a loop of symbolic links"},
		at("datagram"):                    {dialing.NotSocket, "another type"},
		at("dead"):                        {dialing.Dead, "no process listens"},
	} {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: connected", path)
			continue
		}
		if got := dialing.Unix(path, err); got.Kind != want.kind || !strings.Contains(got.Text, want.text) {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	for err, want := range map[error]dialing.Kind{fs.ErrPermission: dialing.Denied, unix.EAGAIN: dialing.Busy, os.ErrDeadlineExceeded: dialing.Silent, unix.EIO: dialing.Other} {
		if got := dialing.Unix("/x", &net.OpError{Err: err}); got.Kind != want || got.Text == "" {
			t.Errorf("%v: %+v, want %s", err, got, want)
		}
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	closed := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	address := closed.Addr().String()
	must.OK(t, closed.Close())
	for address, want := range map[string]dialing.Kind{address: dialing.Dead, "nowhere.invalid:1": dialing.Other, "localhost": dialing.Address, "localhost:99999": dialing.Address} {
		_, err := net.DialTimeout("tcp", address, 10*time.Second)
		if got := dialing.TCP(err); got.Kind != want || got.Text == "" {
			t.Errorf("%s: %+v, want %s (%v)", address, got, want, err)
		}
	}
	for err, want := range map[error]dialing.Kind{unix.EHOSTUNREACH: dialing.Silent, os.ErrDeadlineExceeded: dialing.Silent, unix.EIO: dialing.Other} {
		if got := dialing.TCP(&net.OpError{Err: err}); got.Kind != want || got.Text == "" {
			t.Errorf("%v: %+v, want %s", err, got, want)
		}
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	err := &dialing.Error{Text: "gone", Err: unix.ECONNREFUSED}
	if err.Error() != "gone" || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
}
