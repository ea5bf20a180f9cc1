package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestOtherUsersDirectories: root refuses a directory of its own that another user has
// made or can change, with one line, and changes nothing. A lock that another user holds
// where it can does not matter.
func TestOtherUsersDirectories(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has these directories, and mount namespaces")
	}
	must.Have(t, "unshare", "setpriv", "flock")
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	disk := shortDir(t, "")
	const (
		memory = "mount -t tmpfs -o mode=755 none /run; mkdir -m 1777 /run/lock; mount -t tmpfs -o mode=1777 none /dev/shm\n"
		other  = "as() { setpriv --reuid 64101 --regid 64101 --clear-groups -- \"$@\"; }\n"
	)
	// inside runs the program where /run and /dev/shm are its own, after other users' work.
	inside := func(ctx context.Context, t *testing.T, work string, args ...string) result {
		t.Helper()
		script := "set -e\n" + other + work + "\nexec " + luksplug + " --qmp " + q.Socket + ` "$@"`
		return run(ctx, t, exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", script, "sh"}, args...)...))
	}
	attach := attachArgs(t, v, v.DiskXML("sdb", "scsi"))
	for name, c := range map[string]struct{ work, want string }{
		"the run directory":      {memory + "mkdir -m 777 /run/luksplug", "/run/luksplug has mode 0777"},
		"of VMs":                 {memory + "mkdir /run/luksplug; mkdir -m 777 /run/luksplug/vm", "/run/luksplug/vm has mode 0777"},
		"of one VM":              {memory + "mkdir -p /run/luksplug/vm/" + q.UUID + "; chown 64101 /run/luksplug/vm/*", "/run/luksplug/vm/" + q.UUID + " belongs to user 64101, and must belong to root: move it away"},
		"a link":                 {memory + "mkdir /run/there; ln -s there /run/luksplug; chown -h 64101 /run/luksplug", "/run/luksplug is a symbolic link of user 64101"},
		"locks":                  {memory + "mkdir /run/luksplug; mkdir -m 1777 /run/luksplug/lock", "/run/luksplug/lock has mode 1777, so others can write to it: check what is in it, and run chmod go-w on it"},
		"in the shared memory":   {"mount --bind " + disk + " /run; mount -t tmpfs -o mode=1777 none /dev/shm; as mkdir /dev/shm/luksplug-0", "/dev/shm/luksplug-0 belongs to user 64101"},
		"a link in that":         {"mount --bind " + disk + " /run; mount -t tmpfs -o mode=1777 none /dev/shm; as ln -s /etc /dev/shm/luksplug-0", "/dev/shm/luksplug-0 is a symbolic link of user 64101: replace it by a directory"},
		"owners of given images": {memory + "mount -t tmpfs -o mode=755 none /var/lib; mkdir /var/lib/luksplug; mkdir -m 777 /var/lib/luksplug/owners", "/var/lib/luksplug/owners has mode 0777"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.work[:len(memory)] != memory && onTmpfs(t, disk) {
				t.Skip("the directory of temporary files is in memory")
			}
			got := inside(ctx, t, c.work, attach...).want(t, 5)
			wantOneLine(t, got, c.want)
			wantSame(ctx, t, q, before)
		})
	}
	t.Run("another user holds the lock", func(t *testing.T) {
		work := memory + "as mkdir -m 777 /run/lock/luksplug\nlock=/run/lock/luksplug/" + q.UUID + ".lock\nas touch $lock\n(exec > /dev/null 2>&1; as sh -c 'exec 9< \"$0\"; flock 9; exec sleep 20' $lock) &\nwhile flock -n $lock true; do sleep 0.1; done"
		inside(ctx, t, work, append([]string{"--timeout", "10s"}, attach...)...).want(t, 0)
		tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
		wantSame(ctx, t, q, before)
	})
}

// onTmpfs reports whether a directory is in memory.
func onTmpfs(t *testing.T, dir string) bool {
	t.Helper()
	var st unix.Statfs_t
	must.OK(t, unix.Statfs(filepath.Clean(dir), &st))
	return st.Type == unix.TMPFS_MAGIC
}
