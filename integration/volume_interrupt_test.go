package integration

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// interruptCase is a command for a volume that would work for minutes.
type interruptCase struct {
	args []string
	// begun reports whether the command is at the work that is to be interrupted; nil is any work of its processor.
	begun func() bool
}

// TestVolumeInterrupted: SIGINT ends the commands for volumes at once. They leave nothing, and the volume and its secret as they
// were, or what the next run finishes.
func TestVolumeInterrupted(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	dir := shortDir(t, "")
	keys, store := volumeStore(t)
	passphrase, other := writeFile(t, "passphrase", "correct horse"), writeFile(t, "other", "battery staple")
	at := func(name string) string { return filepath.Join(dir, name) }
	luks := func(args ...string) []string { return append([]string{"--keystore", store}, args...) }
	given := func(args ...string) []string {
		return luks(append([]string{"--passphrase-file", passphrase}, args...)...)
	}
	create := func(name string, flags ...string) []string {
		return append([]string{"volume", "create", name, "--size", "8M", "--path", at(name)}, flags...)
	}
	run(ctx, t, exec.CommandContext(ctx, luksplug, given(create("volume", "--unlock-time", "10ms")...)...)).want(t, 0)
	slow := at("slow") // its first key slot takes an hour to try
	content := must.Get(os.ReadFile(at("volume")))(t)
	const firstSlot = 208
	binary.BigEndian.PutUint32(content[firstSlot+4:], 2_000_000_000)
	must.Write(t, slow, content)
	partly := func() bool { // a part of the file under its temporary name is allocated
		found := must.Get(filepath.Glob(at(".allocated.luksplug-*")))(t)
		var st unix.Stat_t
		return len(found) == 1 && unix.Stat(found[0], &st) == nil && st.Blocks*512 > 32*peer.MiB
	}
	formatted := func() bool { return len(must.Get(filepath.Glob(at(".formatted.luksplug-*")))(t)) == 1 }
	var room unix.Statfs_t
	must.OK(t, unix.Statfs(dir, &room))
	before := filesIn(t, dir, keys)
	for name, c := range map[string]interruptCase{
		"create, derivation":          {args: given(create("derived", "--unlock-time", "10m")...)},
		"create, derivation of LUKS2": {args: given(create("derived", "--luks2", "--unlock-time", "10m")...)},
		"create, allocation":          {args: luks(create("allocated", "--size", "4G", "--preallocation", "full")...), begun: partly},
		"create, qemu-img":            {args: luks(create("formatted", "--format", "qcow2")...), begun: formatted},
		"passphrase change":           {args: given("volume", "passphrase", "change", at("volume"), "--new-passphrase-file", other, "--unlock-time", "10m")},
		"header-backup":               {args: given("volume", "header-backup", slow, at("backup"))},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasSuffix(name, "allocation") && int64(room.Bavail)*room.Bsize < 8<<30 {
				t.Skipf("%s has less than 8 GiB free", dir)
			}
			b := startCommand(t, exec.CommandContext(ctx, luksplug, c.args...))
			eventually(ctx, t, "the program is at its work", func() bool {
				if c.begun != nil && !b.isOver() {
					return c.begun()
				}
				return b.isOver() || busy(t, b.cmd.Process.Pid) > 500*time.Millisecond
			})
			must.OK(t, b.cmd.Process.Signal(syscall.SIGINT))
			asked := time.Now()
			r := b.end(ctx, t).want(t, 1)
			if took := time.Since(asked); took > 10*time.Second || !strings.Contains(r.stderr, "interrupted") {
				t.Errorf("after %v: %s", took, r.stderr)
			}
			if now := filesIn(t, dir, keys); now != before {
				t.Errorf("the files are\n%s, and were\n%s", now, before)
			}
		})
	}
	opens := func(key string, code int) {
		t.Helper()
		run(ctx, t, exec.CommandContext(ctx, luksplug, "--passphrase-file", key, "volume", "info", "--check", at("volume"))).want(t, code)
	}
	opens(passphrase, 0)
	run(ctx, t, exec.CommandContext(ctx, luksplug, given("volume", "passphrase", "change", at("volume"), "--new-passphrase-file", other, "--unlock-time", "10ms")...)).want(t, 0)
	opens(other, 0)
	opens(passphrase, 4)
}

// filesIn returns the names of the files of directories, with the content of small ones.
func filesIn(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		for _, f := range must.Get(os.ReadDir(dir))(t) {
			path := filepath.Join(dir, f.Name())
			all.WriteString(path + ": ")
			all.Write(must.Get(os.ReadFile(path))(t))
			all.WriteString("\n")
		}
	}
	return all.String()
}
