package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// Users of VMs that have one of their own. They have no accounts.
const (
	firstUser  = 64101
	secondUser = 64102
)

// may reports whether a command of a user's succeeds: what a QEMU can do that runs as that
// user and that its guest has taken over.
func may(ctx context.Context, t *testing.T, user int, name string, args ...string) bool {
	t.Helper()
	id := strconv.Itoa(user)
	path := must.Get(exec.LookPath("setpriv"))(t)
	return run(ctx, t, exec.CommandContext(ctx, path, append([]string{"--reuid", id, "--regid", id, "--clear-groups", "--", name}, args...)...)).code == 0
}

// ephemeralHeaders returns the paths in /proc of the ephemeral headers that a process has open.
func ephemeralHeaders(t *testing.T, pid int) []string {
	t.Helper()
	links := must.Get(filepath.Glob(filepath.Join(procDir(pid), "fd", "*")))(t)
	var out []string
	for _, path := range links {
		if to, err := os.Readlink(path); err == nil && strings.Contains(to, "memfd:luksplug-header") {
			out = append(out, path)
		}
	}
	return out
}

// TestUsersOfVMs: a QEMU cannot open what is meant for a VM whose QEMU runs as another
// user. One of the same user can, as docs/security.md tells: nothing of the kernel's keeps
// processes of one user apart but a security module.
func TestUsersOfVMs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := startAs(t, secondUser, peer.Options{SCSI: true, Paused: true})
	must.OK(t, os.Chmod(q.Dir, 0o755)) // only the socket's own mode protects it
	before := stateOf(ctx, t, q)
	reads := func(path string) []string { return []string{"head", "-c", "512", path} }
	apart := func(what string, command []string) {
		t.Helper()
		if may(ctx, t, firstUser, command[0], command[1:]...) {
			t.Errorf("%s: another VM's user may: %v", what, command)
		}
		if !may(ctx, t, secondUser, command[0], command[1:]...) {
			t.Errorf("%s: the VM's own user may not, so the test shows nothing: %v", what, command)
		}
	}
	v := peer.NewVolume(t, peer.DetachedRaw)
	open := readableByAll(t, v.Payload)
	args := attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Payload, open))
	tool(ctx, t, q.Socket, args...).want(t, 0)
	headers := ephemeralHeaders(t, q.PID)
	if len(headers) == 0 {
		t.Fatal("QEMU has no ephemeral header open")
	}
	apart("the ephemeral header", reads(headers[0]))
	apart("QEMU's memory", []string{"sh", "-c", ": < /proc/" + strconv.Itoa(q.PID) + "/mem"})
	apart("the monitor", []string{"socat", "-u", "OPEN:/dev/null", "UNIX-CONNECT:" + q.Socket})
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)

	v = peer.NewVolume(t, peer.EmbeddedLUKS)
	open = readableByAll(t, v.Payload)
	args = attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Payload, open))
	tool(ctx, t, q.Socket, append(args, "--unlock", "external")...).want(t, 0)
	var sockets []string
	for _, dir := range peer.RunDirs(q.UUID) {
		sockets = append(sockets, must.Get(filepath.Glob(filepath.Join(dir, "sdb", "*.sock")))(t)...)
	}
	if len(sockets) != 2 {
		t.Fatalf("the sockets of the storage daemon are %v", sockets)
	}
	for _, path := range sockets {
		apart("the storage daemon", []string{"socat", "-u", "OPEN:/dev/null", "UNIX-CONNECT:" + path})
	}
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, q, before)
}

// TestDomainWithItsOwnUser: a domain whose <seclabel> gives its QEMU a user of its own
// starts with its disk, and what is handed over belongs to that user alone.
func TestDomainWithItsOwnUser(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	base := shortDir(t, "")
	must.OK(t, os.Chmod(base, 0o777))
	spied := filepath.Join(base, "spied")
	// Before QEMU starts, and while it runs: who can open the files, and connect to the monitor?
	h := newHookHostWith(t, peer.LibvirtOptions{User: qemuUser, Hook: `#!/bin/sh
as() { user=$1; shift; setpriv --reuid $user --regid $user --clear-groups -- "$@" > /dev/null 2>&1; }
for user in 64055 64101 64102; do
	case $2 in
	start) for file in $(find /run/luksplug/vm /dev/shm -path '*/` + hookUUID + `/*' -type f); do
		echo "$file" >> ` + spied + `.files
		! as $user head -c 1 "$file" || echo "start: $user reads $file"
	done ;;
	started) ! as $user socat -u OPEN:/dev/null UNIX-CONNECT:/run/luksplug/monitor/` + hookUUID + `/qmp || echo "started: $user connects" ;;
	esac
done >> ` + spied + `
`})
	disk := plugged{volume: userVolume(ctx, t, peer.DetachedRaw), target: "vdb", cold: true}
	must.OK(t, os.Chown(disk.volume.Payload, secondUser, secondUser))
	id := strconv.Itoa(secondUser)
	d := h.defineWith(ctx, t, peer.DomainOptions{Label: "<seclabel type='static' model='dac' relabel='yes'><label>+" + id + ":+" + id + "</label></seclabel>"}, disk)
	must.OK(t, d.Start(ctx))
	files := strings.Fields(string(must.Get(os.ReadFile(spied + ".files"))(t)))
	if len(files) < 2 {
		t.Errorf("the files for QEMU's start are %v", files)
	}
	got := string(must.Get(os.ReadFile(spied))(t))
	for _, path := range files {
		if !strings.Contains(got, "start: "+id+" reads "+path+"\n") {
			t.Errorf("QEMU's user cannot read %s: %s", path, got)
		}
	}
	if !strings.Contains(got, "started: "+id+" connects\n") {
		t.Errorf("QEMU's user cannot connect to the monitor: %s", got)
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(line, ": "+id+" ") {
			t.Errorf("another user may: %s", line)
		}
	}
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
}
