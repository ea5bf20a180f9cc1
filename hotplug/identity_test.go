package hotplug_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// relay is a proxy in front of a monitor. It is another process than QEMU, and lies for it.
type relay struct {
	address string
	mu      sync.Mutex
	sent    bytes.Buffer // by the client
}

// newRelay starts a relay that passes on each line of QEMU as rewrite returns it.
func newRelay(t *testing.T, monitor string, rewrite func(line []byte) []byte) *relay {
	t.Helper()
	r := &relay{address: filepath.Join(must.Dir(t, ""), "relay")}
	l := must.Get(net.Listen("unix", r.address))(t)
	var links sync.WaitGroup
	links.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			qemu, err := net.Dial("unix", monitor)
			if err != nil {
				_ = client.Close()
				continue
			}
			links.Go(func() { // until the client leaves
				defer func() { _ = qemu.Close() }()
				eachLine(client, func(line []byte) {
					r.mu.Lock()
					r.sent.Write(line)
					r.mu.Unlock()
					_, _ = qemu.Write(line)
				})
			})
			links.Go(func() {
				defer func() { _ = client.Close() }()
				eachLine(qemu, func(line []byte) { _, _ = client.Write(rewrite(line)) })
			})
		}
	})
	t.Cleanup(func() { // after the clients were closed
		_ = l.Close()
		links.Wait()
	})
	return r
}

func eachLine(conn net.Conn, f func(line []byte)) {
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		f(line)
	}
}

// traffic returns what clients have sent.
func (r *relay) traffic() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent.String()
}

// qemuAt starts a QEMU and returns its first monitor and its process id.
func qemuAt(t *testing.T, extra ...string) (monitor string, pid int) {
	t.Helper()
	must.Have(t, "qemu-system-x86_64")
	sockets, stop, err := startQEMU(must.Dir(t, ""), extra...)
	must.OK(t, err)
	t.Cleanup(stop)
	client := must.Get(qmp.Dial(bounded(t), sockets[0]))(t)
	pid, _ = client.PeerPID()
	must.OK(t, client.Close())
	return sockets[0], pid
}

// asUUID has a QEMU report another UUID.
func asUUID(own, other string) func([]byte) []byte {
	return func(line []byte) []byte { return bytes.ReplaceAll(line, []byte(own), []byte(other)) }
}

// TestLiar: a VM has a disk by a storage daemon, whose image was given to QEMU's user. Another QEMU reports that VM's
// UUID: at its own socket, through a proxy, through a proxy with the process named, and with the UUID among its
// arguments as well. Whatever is called then, the first VM keeps its daemon, its note and its image.
func TestLiar(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-storage-daemon")
	ctx := bounded(t)
	run, locks := must.Dir(t, ""), t.TempDir()
	theirs, ours := uuid.NewString(), uuid.NewString()
	honest, pid := qemuAt(t, "-uuid", theirs)
	options := hotplug.Options{RunDir: run, LockDir: locks}
	v := must.Get(hotplug.Connect(ctx, dialer(honest), options))(t)
	defer func() { _ = v.Close() }()
	disk := luksDisk(t, "sdb")
	image := disk.Image.Source.Path
	spec := hotplug.Spec{Relabel: os.Geteuid() == 0}
	must.Get(v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockExternal, Spec: spec}))(t)
	given(t, run, theirs, image, pid)
	before, files := must.Get(v.List(ctx))(t), snapshot(t, run, image)
	if len(before) != 1 || before[0].Daemon == 0 {
		t.Fatalf("listed: %+v", before)
	}

	liar, liarPID := qemuAt(t, "-uuid", ours)
	twin, _ := qemuAt(t, "-uuid", theirs)
	named := options
	named.Process = func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(liarPID) }
	managed := options
	managed.UUID = ours
	for _, c := range []struct {
		name    string
		dial    hotplug.Dialer
		options hotplug.Options
		says    string
	}{
		{"through a proxy", dialer(newRelay(t, liar, asUUID(ours, theirs)).address), options, "which is no QEMU, reports the UUID " + theirs},
		{"through a proxy, with its process", dialer(newRelay(t, liar, asUUID(ours, theirs)).address), named, "was started with the UUID " + ours + ", and reports " + theirs},
		{"known to a manager", dialer(newRelay(t, liar, asUUID(ours, theirs)).address), managed, "under the UUID " + ours + ", and its QEMU reports " + theirs},
		{"as no UUID at all", dialer(newRelay(t, liar, asUUID(ours, "../"+theirs)).address), options, "is no UUID"},
		{"without a UUID", dialer(newRelay(t, liar, asUUID(ours, uuid.Nil.String())).address), named, "reports none"},
		{"with the same arguments", dialer(twin), options, "belongs to another VM, process " + strconv.Itoa(pid)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := hotplug.Connect(ctx, c.dial, c.options)
			var refused *hotplug.PreflightError
			if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrIdentity) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if err == nil { // what it would have done
				_, _ = l.List(ctx)
				_, _ = l.Repair(ctx)
				_, _ = l.Attach(ctx, plainDisk(t, "sdb"), nil, hotplug.AttachOptions{})
				_, _ = l.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: time.Second})
				_ = l.Close()
			}
			if after := must.Get(v.List(ctx))(t); !reflect.DeepEqual(before, after) {
				t.Errorf("before %+v\nafter  %+v", before[0], after)
			}
			if after := snapshot(t, run, image); !slices.Equal(files, after) {
				t.Errorf("before %q\nafter  %q", files, after)
			}
		})
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	if left := snapshot(t, run, image); len(left) > 1 {
		t.Errorf("left: %q", left)
	}
}

// given makes the registry of given images name the image as one of the VM's, as --relabel does for an image that QEMU
// may not open.
func given(t *testing.T, run, id, image string, pid int) {
	t.Helper()
	process := must.Get(hostproc.ProcessOf(pid))(t)
	var st syscall.Stat_t
	must.OK(t, syscall.Stat(image, &st))
	entry := must.Get(json.Marshal(map[string]any{
		"was": map[string]any{"path": image, "uid": st.Uid + 1, "gid": st.Gid}, "is": map[string]any{"path": image, "uid": st.Uid, "gid": st.Gid}, "inode": st.Ino,
		"uses": []any{map[string]any{"vm": id, "target": "sdb", "process": process, "boot": hostproc.BootID()}},
	}))(t)
	dir := filepath.Join(run, "owners")
	must.OK(t, os.MkdirAll(dir, 0o700))
	must.Write(t, filepath.Join(dir, strings.Repeat("0", 32)), entry)
}

// snapshot lists the files of a run directory with the owner of an image.
func snapshot(t *testing.T, run, image string) []string {
	t.Helper()
	var st syscall.Stat_t
	must.OK(t, syscall.Stat(image, &st))
	out := []string{fmt.Sprintf("the image belongs to %d:%d", st.Uid, st.Gid)}
	must.OK(t, filepath.WalkDir(run, func(path string, e os.DirEntry, err error) error {
		if err == nil && path != run && filepath.Dir(path) != run {
			out = append(out, path)
		}
		return err
	}))
	return out
}

// TestPassedSocket: a service manager has made the monitor's socket and passed it to QEMU. The kernel names the manager
// as the peer; the VM is nevertheless identified by QEMU's process.
func TestPassedSocket(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-system-x86_64")
	ctx := bounded(t)
	path := filepath.Join(must.Dir(t, ""), "qmp")
	l := must.Get(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))(t)
	defer func() { _ = l.Close() }()
	file := must.Get(l.File())(t)
	defer func() { _ = file.Close() }()
	id := uuid.NewString()
	cmd := exec.Command("qemu-system-x86_64", append(slices.Clone(vmOptions), "-uuid", id,
		"-chardev", "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control")...)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{file}, os.Stderr
	must.OK(t, cmd.Start())
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	run := t.TempDir()
	v := must.Get(hotplug.Connect(ctx, dialer(path), hotplug.Options{RunDir: run, LockDir: t.TempDir()}))(t)
	defer func() { _ = v.Close() }()
	if got, err := v.UUID(ctx); err != nil || got != id {
		t.Errorf("%s, %v; want %s", got, err, id)
	}
	must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{}))(t)
	wantNoteOf(t, run, id, cmd.Process.Pid)
}

// wantNoteOf checks that the note of sdb names the process.
func wantNoteOf(t *testing.T, run, id string, pid int) {
	t.Helper()
	var note struct{ Process struct{ PID int } }
	must.OK(t, json.Unmarshal(readFile(t, filepath.Join(run, id, "sdb.json")), &note))
	if note.Process.PID != pid {
		t.Errorf("the note names process %d, want %d", note.Process.PID, pid)
	}
}

// TestConfirmedUUID: the UUID by which a VM's keys are chosen is not one that only QEMU reports.
func TestConfirmedUUID(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	own, other := uuid.NewString(), uuid.NewString() // no QEMU of this host has the other one
	socket, pid := qemuAt(t, "-uuid", own)
	proxy, liar := newRelay(t, socket, func(line []byte) []byte { return line }), newRelay(t, socket, asUUID(own, other))
	named := func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(pid) }
	for _, c := range []struct {
		name, address, want string
		options             hotplug.Options
	}{
		{"at QEMU's socket", socket, own, hotplug.Options{}},
		{"through a proxy, with its process", proxy.address, own, hotplug.Options{Process: named}},
		{"through a proxy", liar.address, "", hotplug.Options{}},
		{"on another machine", liar.address, "", hotplug.Options{Files: hotplug.FilesRemote}},
		{"on another machine, with a manager", proxy.address, own, hotplug.Options{Files: hotplug.FilesRemote, UUID: own}},
	} {
		c.options.RunDir, c.options.LockDir = t.TempDir(), t.TempDir()
		v := must.Get(hotplug.Connect(ctx, dialer(c.address), c.options))(t)
		if got, err := v.UUID(ctx); got != c.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
		must.OK(t, v.Close())
	}
}

// TestTCPMonitors: two VMs have their monitors on the same TCP port of two addresses. Each disk is noted as that of the
// process at the other end of its own connection.
func TestTCPMonitors(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	free := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	_, port, _ := net.SplitHostPort(free.Addr().String())
	must.OK(t, free.Close())
	run, locks := t.TempDir(), t.TempDir()
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		id := uuid.NewString()
		_, pid := qemuAt(t, "-uuid", id, "-qmp", "tcp:"+ip+":"+port+",server=on,wait=off")
		v := must.Get(hotplug.Connect(ctx, dialer("tcp:"+ip+":"+port), hotplug.Options{RunDir: run, LockDir: locks, Files: hotplug.FilesLocal}))(t)
		t.Cleanup(func() { _ = v.Close() })
		must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}))(t)
		wantNoteOf(t, run, id, pid)
	}
}

// TestAnotherVMAfterRedial: after the connection was lost, another VM answers at the address. Nothing is done to it.
func TestAnotherVMAfterRedial(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	first, _ := qemuAt(t, "-uuid", uuid.NewString())
	second, _ := qemuAt(t, "-uuid", uuid.NewString())
	dials := 0
	v := must.Get(hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) {
		if dials++; dials == 1 {
			return qmp.Dial(ctx, first)
		}
		return qmp.Dial(ctx, second)
	}, hotplug.Options{RunDir: t.TempDir(), LockDir: t.TempDir()}))(t)
	defer func() { _ = v.Close() }()
	must.OK(t, v.Client().Close())
	if s, err := v.State(ctx); err == nil || !strings.Contains(err.Error(), "another VM") {
		t.Errorf("%+v, %v", s, err)
	}
}
