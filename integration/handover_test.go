package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// nobodyID is the id of the unprivileged user and group.
const nobodyID = 65534

func procDir(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// startAsNobody starts a QEMU that runs as an unprivileged user.
func startAsNobody(t *testing.T, o peer.Options) *peer.QEMU {
	t.Helper()
	return startAs(t, nobodyID, o)
}

// startAs starts a QEMU that runs as a user and a group with that id.
func startAs(t *testing.T, user int, o peer.Options) *peer.QEMU {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start QEMU as another user")
	}
	path, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip(err)
	}
	dir := shortDir(t, "")
	must.OK(t, os.Chown(dir, user, user))
	id := strconv.Itoa(user)
	// The kernel clears the parent death signal when a process changes its user.
	o.Through = []string{path, "--reuid", id, "--regid", id, "--clear-groups", "--pdeathsig", "KILL", "--"}
	return peer.StartIn(t, dir, o)
}

// readableByAll moves a file to a directory where every user can open and write it, and returns its new path.
func readableByAll(t *testing.T, path string) string {
	t.Helper()
	dir := shortDir(t, "")
	open := filepath.Join(dir, "payload.img")
	must.OK(t, errors.Join(os.Chmod(dir, 0o755), os.Rename(path, open), os.Chmod(open, 0o666)))
	return open
}

// TestHandOverAsDescriptor: QEMU opens the passed header, as any user. Only luksplug reads the original.
func TestHandOverAsDescriptor(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := startAsNobody(t, peer.Options{SCSI: true, Paused: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	open := readableByAll(t, v.Payload)
	before := stateOf(ctx, t, q)
	args := attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Payload, open))
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
	tool(ctx, t, proxy.Address, append(args, "--unlock", "qemu")...).want(t, 5) // it may not open the original
	wantSame(ctx, t, q, before)
	tool(ctx, t, proxy.Address, args...).want(t, 0)
	wantNoDescriptors(ctx, t, q)
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, q, before)
	passed := 0
	for _, r := range proxy.Records() {
		passed += r.FDs
	}
	if passed != 1 {
		t.Errorf("%d descriptors were passed, want 1", passed)
	}
}

// wantNoDescriptors checks that the VM holds neither a passed descriptor nor a secret. The empty set that
// QEMU lists while the node is open may stay.
func wantNoDescriptors(ctx context.Context, t *testing.T, q *peer.QEMU) {
	t.Helper()
	s := stateOf(ctx, t, q)
	for _, set := range s.FDSets {
		if !strings.HasSuffix(set, " (0)") {
			t.Errorf("the descriptor set %s is not empty", set)
		}
	}
	for _, object := range s.Objects {
		if strings.Contains(object, "secret") {
			t.Errorf("the object %s still exists", object)
		}
	}
}

// handedOver is a file for QEMU in the VM's directory.
type handedOver struct {
	step int
	path string
	mode fs.FileMode
	user int
}

// seeFiles returns a hook that records, at every step, the ephemeral headers that are files, and kills the
// program at step kill.
func seeFiles(t *testing.T, uuid string, b *background, kill int) (peer.ProxyHooks, func() []handedOver) {
	var mu sync.Mutex
	var seen []handedOver
	hook := func(c peer.Command) peer.Verdict {
		if c.Step == 0 {
			return peer.Verdict{}
		}
		mu.Lock()
		defer mu.Unlock()
		for _, path := range headerFiles(t, uuid) {
			info, err := os.Stat(path)
			if err != nil {
				t.Errorf("step %d: %v", c.Step, err)
				continue
			}
			seen = append(seen, handedOver{c.Step, path, info.Mode(), int(info.Sys().(*syscall.Stat_t).Uid)})
		}
		if c.Step == kill {
			return b.kill()
		}
		return peer.Verdict{}
	}
	return peer.ProxyHooks{Command: hook}, func() []handedOver {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// headerFiles returns the paths of a VM's ephemeral headers that are files.
func headerFiles(t *testing.T, uuid string) []string {
	t.Helper()
	files, err := peer.ReadHost(uuid)
	if err != nil {
		t.Error(err)
	}
	var found []string
	for _, path := range files {
		if strings.HasSuffix(path, "-header-storage") {
			found = append(found, path)
		}
	}
	return found
}

// wantPrivateFile checks that an ephemeral header was in memory, readable by its user only, and removed after
// the step that opens it.
func wantPrivateFile(t *testing.T, seen []handedOver, user int) {
	t.Helper()
	if len(seen) != 1 || seen[0].step != 1 {
		t.Fatalf("files were seen at these steps: %+v; want one, at the first", seen)
	}
	if seen[0].mode != 0o600 || seen[0].user != user {
		t.Errorf("the file is %v of user %d, want 0600 of user %d", seen[0].mode, seen[0].user, user)
	}
	if !strings.HasPrefix(seen[0].path, "/dev/shm/") && !strings.HasPrefix(seen[0].path, "/run/") {
		t.Errorf("the file is %s", seen[0].path)
	}
	var st unix.Statfs_t
	dir := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(seen[0].path)))) // the file itself is removed
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("%s is no tmpfs: type %#x, error %v", dir, st.Type, err)
	}
}

// TestHandOverAsFile: over TCP no descriptor can be passed. The header is a file while QEMU opens it, and is
// removed even after the program was killed.
func TestHandOverAsFile(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.EmbeddedLUKS), "sdb", "scsi", "")
	before := stateOf(ctx, t, q)
	attach := func(t *testing.T, kill int) (*background, []handedOver) {
		b := newBackground()
		hooks, seen := seeFiles(t, q.UUID, b, kill)
		b.start(t, program(ctx, peer.NewTCPProxy(t, q.Socket, hooks).Address, p.attachArgs()...))
		<-b.ended
		return b, seen()
	}

	b, seen := attach(t, 0)
	b.result(t).want(t, 0).wantUnlock(t, "ephemeral")
	wantPrivateFile(t, seen, os.Geteuid())
	if left := headerFiles(t, q.UUID); len(left) > 0 {
		t.Errorf("left after the attach: %v", left)
	}
	wantNoDescriptors(ctx, t, q)
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)

	for step := 1; step <= 6; step++ {
		t.Run(fmt.Sprintf("killed at step %d", step), func(t *testing.T) {
			b, _ := attach(t, step)
			b.wantKilled(t)
			if left := headerFiles(t, q.UUID); len(left) != map[bool]int{true: 1}[step == 1] && step > 2 {
				t.Errorf("killed at step %d, long after the file was opened, there are %v", step, left)
			}
			if d := listed(ctx, t, q)["sdb"]; d.State != "leftover" {
				t.Errorf("listed as %+v", d)
			}
			tool(ctx, t, q.Socket, "repair").want(t, 0)
			wantSame(ctx, t, q, before)
		})
	}
	t.Run("cut off", func(t *testing.T) {
		for step := 1; step <= 6; step++ {
			proxy := peer.NewTCPProxy(t, q.Socket, peer.CutAtStep(step, peer.CutBeforeReply))
			r := tool(ctx, t, proxy.Address, p.attachArgs()...)
			if r.code != 0 {
				r.want(t, 6)
			} else {
				p.detach(ctx, t)
			}
			wantSame(ctx, t, q, before)
		}
	})
}

// TestHandOverAsFileToAnotherUser: over TCP, to a QEMU that runs as another user.
func TestHandOverAsFileToAnotherUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := startAsNobody(t, peer.Options{SCSI: true, Paused: true, TCP: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	open := readableByAll(t, v.Payload)
	before := stateOf(ctx, t, q)
	args := attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Payload, open))
	// No proxy here: QEMU's user is that of the process that listens on the port.
	got := tool(ctx, t, q.TCPAddress, append([]string{"--output", "json"}, args...)...).want(t, 0)
	if got.wantUnlock(t, "ephemeral"); got.stderr != "" {
		t.Errorf("attach says %s", got.stderr)
	}
	if left := headerFiles(t, q.UUID); len(left) > 0 {
		t.Errorf("left after the attach: %v", left)
	}
	tool(ctx, t, q.TCPAddress, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestKilledBeforeTheFirstChange: what the program has put on the host before the first change of the VM is
// removed by repair or the next attach.
func TestKilledBeforeTheFirstChange(t *testing.T) {
	t.Parallel()
	for _, unlock := range []string{"auto", "external"} {
		t.Run(unlock, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
			p := newPlug(t, q, peer.NewVolume(t, peer.DetachedRaw), "sdb", "scsi", "")
			p.unlock = unlock
			before := stateOf(ctx, t, q)
			kill := func() {
				t.Helper()
				b := newBackground()
				hooks, _ := seeFiles(t, q.UUID, b, 1)
				b.start(t, program(ctx, peer.NewProxy(t, q.Socket, hooks).Address, p.attachArgs()...))
				b.wantKilled(t)
				if diff := before.Diff(stateOf(ctx, t, q)); len(diff) == 0 {
					t.Fatal("nothing was on the host")
				}
			}
			kill()
			tool(ctx, t, q.Socket, "repair").want(t, 0)
			wantSame(ctx, t, q, before)
			kill()
			p.attach(ctx, t)
			p.detach(ctx, t)
			wantSame(ctx, t, q, before)
		})
	}
}

// TestDescriptorSetOfOthers: a descriptor set that is not luksplug's stays, even with the number that
// luksplug begins with.
func TestDescriptorSetOfOthers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true,
		Through: []string{"sh", "-c", `exec "$@" 3</dev/null`, "sh"},
		Extra:   []string{"-add-fd", "fd=3,set=1900000000,opaque=not-ours"}})
	p := newPlug(t, q, peer.NewVolume(t, peer.EmbeddedLUKS), "sdb", "scsi", "")
	before := stateOf(ctx, t, q)
	if len(before.FDSets) != 1 {
		t.Fatalf("QEMU begins with the descriptor sets %v", before.FDSets)
	}
	p.attach(ctx, t)
	if d := listed(ctx, t, q)["sdb"]; d.State != "attached" || d.Unlock != "ephemeral" {
		t.Errorf("listed as %+v", d)
	}
	tool(ctx, t, q.Socket, "repair").want(t, 0)
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)
}
