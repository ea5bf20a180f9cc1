package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestLiar: a VM has a disk that a storage daemon serves and whose image was given to QEMU's user. Another VM's QEMU
// reports the first one's UUID: through a proxy, and by its own arguments. No command on it touches the first VM's
// daemon, note or image.
func TestLiar(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	honest := startAsNobody(t, peer.Options{SCSI: true, Paused: true})
	v := userVolume(ctx, t, peer.DetachedRaw)
	p := newPlug(t, honest, v, "sdb", "scsi", "")
	p.unlock = "external"
	tool(ctx, t, honest.Socket, append(p.attachArgs(), "--relabel")...).want(t, 0)
	nobody := fmt.Sprintf("%d:0", nobodyID)
	wantOwner(t, v.Payload, nobody)
	files, daemon := must.Get(peer.ReadHost(honest.UUID))(t), listed(ctx, t, honest)["sdb"].Daemon

	liar := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	proxy := peer.NewProxy(t, liar.Socket, peer.ProxyHooks{Reply: func(_ string, reply []byte) []byte {
		return bytes.ReplaceAll(reply, []byte(liar.UUID), []byte(honest.UUID))
	}})
	twin := peer.Start(t, peer.Options{SCSI: true, Paused: true, Extra: []string{"-uuid", honest.UUID}})
	own := newPlug(t, liar, peer.NewVolume(t, peer.EmbeddedLUKS), "sdb", "scsi", "")
	before, twinBefore := stateOf(ctx, t, liar), stateOf(ctx, t, twin)
	for name, monitor := range map[string][]string{
		"through a proxy":                        {"--qmp", proxy.Address},
		"through a proxy, with its process":      named(proxy.Address),
		"with the same arguments":                {"--qmp", twin.Socket},
		"through a proxy, with another process":  {"--qmp", proxy.Address, "--qemu-pid", fmt.Sprint(twin.PID)},
		"with the same arguments and a wrong id": {"--qmp", twin.Socket, "--qemu-pid", fmt.Sprint(liar.PID)},
	} {
		for _, args := range [][]string{
			{"list"}, {"repair"}, {"detach", "sdb"}, {"plan", own.xml}, own.attachArgs(),
			append(own.attachArgs(), "--unlock", "external"), append(own.attachArgs(), "--relabel"),
		} {
			t.Run(name+": "+args[len(args)-1], func(t *testing.T) {
				got := run(ctx, t, exec.CommandContext(ctx, luksplug, slices.Concat(monitor, args)...)).want(t, 5)
				wantOneLine(t, got, "not the one that it says it is")
				if d := listed(ctx, t, honest)["sdb"]; d.State != "attached" || d.Daemon != daemon || daemon == 0 {
					t.Errorf("the other VM's disk: %+v", d)
				}
				if after := must.Get(peer.ReadHost(honest.UUID))(t); !slices.Equal(files, after) {
					t.Errorf("before %q\nafter  %q", files, after)
				}
				wantOwner(t, v.Payload, nobody)
			})
		}
	}
	wantSame(ctx, t, liar, before)
	if diff := twinBefore.Diff(stateOf(ctx, t, twin)); len(diff) > 0 && !slices.Equal(must.Get(peer.ReadHost(honest.UUID))(t), files) {
		t.Errorf("the twin has changed: %q", diff)
	}
	p.detach(ctx, t)
	wantOwner(t, v.Payload, "0:0")
}

// TestSamePort: two VMs, of two users, have their monitors on one TCP port of two addresses. luksplug hands a header to
// the user of the right one, and a storage daemon runs as that user, although the port alone is that of both.
func TestSamePort(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	free := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	_, port, _ := net.SplitHostPort(free.Addr().String())
	must.OK(t, free.Close())
	monitor := func(ip string) peer.Options {
		return peer.Options{SCSI: true, Paused: true, Extra: []string{"-qmp", "tcp:" + ip + ":" + port + ",server=on,wait=off"}}
	}
	root, nobody := peer.Start(t, monitor("127.0.0.1")), startAsNobody(t, monitor("127.0.0.2"))
	for _, c := range []struct {
		q    *peer.QEMU
		ip   string
		user int
	}{{root, "127.0.0.1", 0}, {nobody, "127.0.0.2", nobodyID}} {
		v := peer.NewVolume(t, peer.EmbeddedLUKS)
		open := readableByAll(t, v.Payload)
		args := attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Payload, open))
		tool(ctx, t, c.ip+":"+port, append([]string{"--output", "json"}, args...)...).want(t, 0).wantUnlock(t, "ephemeral")
		tool(ctx, t, c.ip+":"+port, "detach", "sdb").want(t, 0)
		tool(ctx, t, c.ip+":"+port, append(args, "--unlock", "external")...).want(t, 0)
		daemons := peer.StorageDaemons(c.q.UUID)
		if len(daemons) != 1 {
			t.Fatalf("storage daemons: %v", daemons)
		}
		if got := userOf(t, daemons[0]); got != c.user {
			t.Errorf("the daemon of the VM at %s runs as user %d, want %d", c.ip, got, c.user)
		}
		must.OK(t, c.q.Close()) // the watcher waits for the right QEMU
		eventually(ctx, t, "the daemon ends with its VM", func() bool { return len(peer.StorageDaemons(c.q.UUID)) == 0 })
	}
}

// TestMaxStall: the limit on the stall of a guest is a flag, and a header that takes longer in QEMU is refused, with the
// ways on.
func TestMaxStall(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.EmbeddedLUKS), "sdb", "scsi", "")
	p.unlock = "qemu"
	image := must.Get(os.OpenFile(p.Payload, os.O_WRONLY, 0))(t)
	_, err := image.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 212) // the iterations of the first key slot
	must.OK(t, err, image.Close())
	before := stateOf(ctx, t, q)
	begin := time.Now()
	wantOneLine(t, tool(ctx, t, q.Socket, p.attachArgs()...).want(t, 5), p.Payload, "the limit of 10s", "--unlock external", "--max-stall")
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("refused after %s", took)
	}
	wantSame(ctx, t, q, before)
	quick := newPlug(t, q, peer.NewVolume(t, peer.Qcow2LUKS), "sdb", "scsi", "")
	wantOneLine(t, tool(ctx, t, q.Socket, append(quick.attachArgs(), "--max-stall", "1ns")...).want(t, 5), quick.Payload, "the limit of 1ns")
	wantOneLine(t, tool(ctx, t, q.Socket, append(quick.attachArgs(), "--max-stall", "-1s")...).want(t, 2), "--max-stall")
	for _, limit := range []string{"0", "30s"} {
		tool(ctx, t, q.Socket, append(quick.attachArgs(), "--max-stall", limit)...).want(t, 0)
		quick.detach(ctx, t)
	}
	wantSame(ctx, t, q, before)
}

// TestHookAttachesAsRecorded: at the start of a domain the hook unlocks a disk as its record has it: in QEMU if the user
// has chosen that, and within the recorded limit of a stall, else the default one.
func TestHookAttachesAsRecorded(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	own := plugged{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", attach: ` unlock="qemu" max-stall="20s"`}
	d := h.define(ctx, t, own)
	must.OK(t, d.Start(ctx))
	list := disksIn[listEntry](t, viaLibvirt(ctx, t, h.Libvirt, d.Name, "list", "--output", "json"))
	if len(list) != 1 || list[0].Unlock != "qemu" || list[0].State != "attached" {
		t.Errorf("listed: %+v", list)
	}
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	virsh(ctx, t, h.Libvirt, "undefine", d.Name)

	short := plugged{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdb", attach: ` max-stall="1ns"`}
	other := h.define(ctx, t, short)
	if err := other.Start(ctx); err == nil || !strings.Contains(err.Error(), "the limit of 1ns") {
		t.Errorf("a stall that is too long: %v", err)
	}
	h.wantClean(ctx, t)
}

// TestHookNotesTheProcess: the note of a disk that a domain starts with names the domain's process, so that no other VM
// may remove it.
func TestHookNotesTheProcess(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	d := h.define(ctx, t, plugged{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true})
	must.OK(t, d.Start(ctx))
	inside := func(path string) string { return run(ctx, t, h.Inside(ctx, "cat", path)).want(t, 0).stdout }
	pid := strings.TrimSpace(inside("/run/libvirt/qemu/" + d.Name + ".pid"))
	if note := inside("/run/luksplug/vm/" + hookUUID + "/vdb.json"); pid == "" || !strings.Contains(note, `"process":{"pid":`+pid+`,`) {
		t.Errorf("the domain is process %s, and the note %s", pid, note)
	}
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
}

// TestDomainProcess: a domain's process is the one that libvirt itself has noted, although another QEMU of the same user
// has the domain's UUID among its arguments.
func TestDomainProcess(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{})
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true}))(t)
	id := virsh(ctx, t, l, "domuuid", d.Name)
	// It ends with the namespaces of libvirtd.
	twin := l.Inside(ctx, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none", "-uuid", id)
	must.OK(t, twin.Start())
	t.Cleanup(func() { _, _ = twin.Process.Kill(), twin.Wait() })
	eventually(ctx, t, "the other QEMU runs", func() bool {
		return strings.Count(run(ctx, t, l.Inside(ctx, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")).stdout, "-uuid\n"+id+"\n") == 2
	})
	v := peer.NewVolume(t, peer.Qcow2LUKS)
	args := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--unlock", "external")
	got := run(ctx, t, l.Inside(ctx, luksplug, slices.Concat([]string{"--connect", l.URI, "--domain", d.Name}, args)...)).want(t, 0)
	if got.stderr != "" {
		t.Errorf("warned: %s", got.stderr) // a daemon of an unknown process would not end with the VM
	}
	virsh(ctx, t, l, "destroy", d.Name)
	eventually(ctx, t, "the daemon ends with the domain", func() bool { return len(peer.StorageDaemons(id)) == 0 })
}
