package daemon

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	passphrase = "correct-horse-battery-staple-4711"
	diskSize   = 4 << 20
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// shortDir is a directory whose path leaves room for sockets, and that every user can pass
// through, unlike that of t.TempDir.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lpd")
	must.OK(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	must.OK(t, os.Chmod(dir, 0o711))
	return dir
}

// mustStart starts a daemon that ends with the test.
func mustStart(t *testing.T, o Options) *Daemon {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(shortDir(t), "d")
	}
	d, err := Start(testContext(t), o)
	must.OK(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
	})
	return d
}

// tool runs a program and returns its output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(testContext(t), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// imageContent is a qcow2 image with LUKS inside that opens fast. It is made once,
// since qemu-img calibrates itself for seconds.
var imageContent = sync.OnceValues(func() (content []byte, err error) {
	dir, err := os.MkdirTemp("", "lpd")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path, key := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(passphrase), 0o600); err != nil {
		return nil, err
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,file="+key,
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, strconv.Itoa(diskSize)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("qemu-img create: %w: %s", err, out)
	}
	return os.ReadFile(path)
})

// encryptedImage makes an image, and a file named key with its passphrase, in dir.
func encryptedImage(t *testing.T, dir string) string {
	t.Helper()
	content, err := imageContent()
	must.OK(t, err)
	path := filepath.Join(dir, "disk.qcow2")
	must.OK(t, os.WriteFile(path, content, 0o600))
	must.OK(t, os.WriteFile(filepath.Join(dir, "key"), []byte(passphrase), 0o600))
	return path
}

// expectInImage fails unless the image, opened without a daemon, holds 64 KiB of a
// pattern at an offset.
func expectInImage(t *testing.T, image, pattern, offset string) {
	t.Helper()
	key := filepath.Join(filepath.Dir(image), "key")
	tool(t, "qemu-io", "--object", "secret,id=s,file="+key, "-c", "read -P "+pattern+" "+offset+" 64k", "--image-opts",
		"driver=qcow2,file.filename="+image+",encrypt.format=luks,encrypt.key-secret=s")
}

// unlock gives the daemon a secret and a node named disk that needs it, and takes
// the secret back.
func unlock(t *testing.T, d *Daemon, image, secret string) error {
	t.Helper()
	ctx := testContext(t)
	run := func(name string, args qmp.Object) error {
		_, err := d.Client().Execute(ctx, qmp.Command{Execute: name, Arguments: args})
		return err
	}
	data := []byte(base64.StdEncoding.EncodeToString([]byte(secret)))
	if err := run("object-add", qmp.Object{
		{Name: "qom-type", Value: "secret"}, {Name: "id", Value: "s"},
		{Name: "format", Value: "base64"}, {Name: "data", Value: qmp.NewSensitive(data)},
	}); err != nil {
		t.Fatal(err)
	}
	opened := run("blockdev-add", qmp.Object{
		{Name: "node-name", Value: "disk"}, {Name: "driver", Value: "qcow2"},
		{Name: "file", Value: qmp.Object{{Name: "driver", Value: "file"}, {Name: "filename", Value: image}}},
		{Name: "encrypt", Value: qmp.Object{{Name: "format", Value: "luks"}, {Name: "key-secret", Value: "s"}}},
	})
	must.OK(t, run("object-del", qmp.Object{{Name: "id", Value: "s"}}))
	return opened
}

// exported is a daemon that serves an encrypted image as the export vdb.
func exported(t *testing.T, o Options) (d *Daemon, image string) {
	t.Helper()
	image = encryptedImage(t, shortDir(t))
	d = mustStart(t, o)
	must.OK(t, unlock(t, d, image, passphrase))
	must.OK(t, d.Export(testContext(t), Export{Node: "disk", Name: "vdb", Writable: true}))
	return d, image
}

func url(d *Daemon) string { return "nbd+unix:///vdb?socket=" + d.Socket() }

// checkGone fails unless process and directory are gone.
func checkGone(t *testing.T, info Info) {
	t.Helper()
	if now, err := hostproc.ProcessOf(info.Process.PID); err == nil && now == info.Process {
		t.Errorf("process %d is still there", info.Process.PID)
	}
	if _, err := os.Lstat(info.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory: %v, want it gone", err)
	}
	if _, err := Inspect(info.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Inspect: %v, want ErrNotRunning", err)
	}
}

// kill9 kills the daemon as a crash would, and waits for its end.
func kill9(t *testing.T, p Process) {
	t.Helper()
	h := open(t, p)
	must.OK(t, h.Signal(9))
	must.OK(t, h.Wait(testContext(t)))
}

// sleeper is a process in place of a VM's QEMU.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	must.OK(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // most tests have done so
		_ = cmd.Wait()
	})
	return cmd
}

func processOf(t *testing.T, pid int) Process {
	t.Helper()
	p, err := hostproc.ProcessOf(pid)
	must.OK(t, err)
	return p
}

// open opens a handle that is closed with the test.
func open(t *testing.T, p Process) *hostproc.Handle {
	t.Helper()
	h, err := p.Open()
	must.OK(t, err)
	t.Cleanup(h.Close)
	return h
}

func proc(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	must.OK(t, err)
	return string(data)
}
