package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// eventually polls until done is true, for a change by another process without an event.
func eventually(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// hostIsClean returns a function that reports whether the host has no files or processes of the VM left.
func hostIsClean(t *testing.T, uuid string) func() bool {
	return func() bool {
		left := must.Get(peer.ReadHost(uuid))(t)
		return len(left) == 0 && len(peer.Watchers(uuid)) == 0
	}
}

// TestStorageDaemon follows the life of the daemon that serves a disk.
func TestStorageDaemon(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) *plug {
		t.Helper()
		q := peer.Start(t, peer.Options{RootPorts: 1, SCSI: true, Paused: true})
		p := newPlug(t, q, peer.NewVolume(t, peer.Qcow2LUKS), "sdb", "scsi", "")
		p.unlock = "external"
		return p
	}

	t.Run("ends with the disk", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		p := start(t)
		before := stateOf(ctx, t, p.q)
		if report := p.attach(ctx, t); report.Unlock != "external" {
			t.Errorf("attach reports %+v", report)
		}
		daemons := peer.StorageDaemons(p.q.UUID)
		d := listed(ctx, t, p.q)["sdb"]
		if len(daemons) != 1 || d.Daemon != daemons[0] || d.Unlock != "external" || d.Payload != p.Payload || d.State != "attached" {
			t.Errorf("storage daemons %v, and list shows %+v", daemons, d)
		}
		if text := tool(ctx, t, p.q.Socket, "list").want(t, 0).stdout; !strings.Contains(text, "by qemu-storage-daemon (process ") {
			t.Errorf("list: %s", text)
		}
		p.detach(ctx, t)
		wantSame(ctx, t, p.q, before)
		eventually(ctx, t, "the watcher ends", hostIsClean(t, p.q.UUID))
	})
	t.Run("ends with the VM", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		p := start(t)
		p.attach(ctx, t)
		if len(peer.StorageDaemons(p.q.UUID)) != 1 || len(peer.Watchers(p.q.UUID)) != 1 {
			t.Errorf("storage daemons %v, watchers %v", peer.StorageDaemons(p.q.UUID), peer.Watchers(p.q.UUID))
		}
		must.OK(t, p.q.Close()) // by SIGKILL
		eventually(ctx, t, "the storage daemon ends", func() bool {
			return len(peer.StorageDaemons(p.q.UUID))+len(peer.Watchers(p.q.UUID)) == 0
		})
		left := must.Get(peer.ReadHost(p.q.UUID))(t)
		for _, path := range left { // a stale note, which the next attach of any VM removes
			if strings.HasSuffix(path, "/sdb") || strings.Contains(path, "/sdb/") {
				t.Errorf("%s is still there", path)
			}
		}
	})
	t.Run("is killed", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		p := start(t)
		before := stateOf(ctx, t, p.q)
		p.attach(ctx, t)
		for _, pid := range peer.StorageDaemons(p.q.UUID) {
			must.OK(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		eventually(ctx, t, "the storage daemon ends", func() bool { return len(peer.StorageDaemons(p.q.UUID)) == 0 })
		if d := listed(ctx, t, p.q)["sdb"]; d.State != "attached" || d.Daemon != 0 {
			t.Errorf("list shows %+v", d)
		}
		p.detach(ctx, t)
		wantSame(ctx, t, p.q, before)
		p.attach(ctx, t) // works again
		p.detach(ctx, t)
		wantSame(ctx, t, p.q, before)
	})
	t.Run("runs as QEMU's user", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		p := start(t)
		open := readableByAll(t, p.Payload)
		q := startAsNobody(t, peer.Options{SCSI: true, Paused: true})
		before := stateOf(ctx, t, q)
		xml := writeFile(t, "disk.xml", edited(t, p.DiskXML("sdb", "scsi"), p.Payload, open))
		tool(ctx, t, q.Socket, "--passphrase-file", p.PassphraseFile, "attach", "--unlock", "external", xml).want(t, 0)
		daemons := peer.StorageDaemons(q.UUID)
		if len(daemons) != 1 || userOf(t, daemons[0]) != nobodyID {
			t.Errorf("storage daemons %v, of users other than QEMU's", daemons)
		}
		tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
		wantSame(ctx, t, q, before)
	})
}

// userOf returns the user id of a process.
func userOf(t *testing.T, pid int) int {
	t.Helper()
	info := must.Get(os.Stat(procDir(pid)))(t)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// TestStorageDaemonRefused: a storage daemon that does not start is reported before the VM is changed, and
// leaves nothing.
func TestStorageDaemonRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true, TCP: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.Qcow2LUKS), "sdb", "scsi", "")
	p.unlock = "external"
	before := stateOf(ctx, t, q)
	for _, c := range []struct {
		name string
		path string   // for PATH
		args []string // before the command
		code int
		says []string
	}{
		{"not installed", t.TempDir(), nil, 5, []string{"disk sdb refused", "the storage daemon does not start", "qemu-utils"}},
		{"no program", filepath.Dir(script(t, "qemu-storage-daemon", "echo no such luck >&2; exit 3")), nil, 5, []string{"disk sdb refused", "the storage daemon does not start", "no such luck"}},
		{"too slow", filepath.Dir(script(t, "qemu-storage-daemon", "exec /bin/sleep 300")), []string{"--timeout", "2s"}, 5, []string{"disk sdb refused", "the time limit of 2s has passed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
			cmd := program(ctx, proxy.Address, append(c.args, p.attachArgs()...)...)
			cmd.Env = append(os.Environ(), "PATH="+c.path)
			wantOneLine(t, run(ctx, t, cmd).want(t, c.code), c.says...)
			wantNoSteps(t, proxy)
			wantSame(ctx, t, q, before)
		})
	}
}
