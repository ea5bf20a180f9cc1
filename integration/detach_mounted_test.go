package integration

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// agentChannel is the channel of a guest agent: QEMU's arguments, and its socket.
func agentChannel(socket string) []string {
	return []string{
		"-device", "virtio-serial-pci,id=serial", "-chardev", "socket,id=agent,server=on,wait=off,path=" + socket,
		"-device", "virtserialport,bus=serial.0,chardev=agent,name=org.qemu.guest_agent.0",
	}
}

// startAgent starts the agent in a guest.
func startAgent(ctx context.Context, t *testing.T, vm machine) {
	t.Helper()
	must.Get(vm.Guest().Run(ctx, peer.AgentCommand))(t)
}

// inGuest runs a command in the guest.
func inGuest(ctx context.Context, t *testing.T, vm machine, command string) {
	t.Helper()
	must.Get(vm.Guest().Run(ctx, command))(t)
}

// TestDetachOfAMountedDisk: qemu-ga in a guest reports what is mounted: of a disk, a partition, and a device-mapper
// device over two disks.
func TestDetachOfAMountedDisk(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket := filepath.Join(shortDir(t, ""), "agent")
	q := booted(ctx, t, peer.Options{RootPorts: 2, SCSI: true, Kernel: peer.AgentGuest, Extra: agentChannel(socket)})
	before := stateOf(ctx, t, q)
	disk := attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "vdb", "virtio")
	scsi := attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "sda", "scsi")
	other := attachInGuest(ctx, t, q, peer.NewVolume(t, peer.DetachedRaw), "sdb", "scsi")
	attached := stateOf(ctx, t, q)
	inGuest(ctx, t, q, "mkdir -p /mnt/a /mnt/b; mke2fs -q "+disk+" >/dev/null; mke2fs -q "+scsi+" > /dev/null; mount "+disk+" /mnt/a")

	startAgent(ctx, t, q)
	refused := func(target string, says ...string) {
		t.Helper()
		got := tool(ctx, t, q.Socket, "detach", target).want(t, 5)
		wantOneLine(t, got, append(says, "disk "+target+" refused", "--force")...)
		wantSame(ctx, t, q, attached)
	}
	refused("vdb", "/mnt/a (vda, ext2)")
	wantOneLine(t, tool(ctx, t, q.Socket, "detach", "vdb", "--agent-socket", socket).want(t, 5), "/mnt/a")
	inGuest(ctx, t, q, "umount /mnt/a")

	// Two SCSI disks of one controller are told apart.
	inGuest(ctx, t, q, "mount "+scsi+" /mnt/b")
	refused("sda", "/mnt/b")
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
	must.OK(t, q.Guest().WaitGone(ctx, other))
	inGuest(ctx, t, q, "umount /mnt/b")
	attached = stateOf(ctx, t, q)

	// A partition.
	inGuest(ctx, t, q, `printf 'n\np\n1\n\n\nw\n' | fdisk `+disk+` >/dev/null; while [ ! -b `+disk+`1 ]; do usleep 50000; done; mke2fs -q `+disk+`1 >/dev/null; mount `+disk+`1 /mnt/a`)
	refused("vdb", "/mnt/a (vda1, ext2)")
	inGuest(ctx, t, q, "umount /mnt/a")

	// A device-mapper device over both, as LVM makes it.
	inGuest(ctx, t, q, `printf '0 4096 linear `+disk+`1 0\n4096 4096 linear `+scsi+` 0\n' | dmsetup create --noudevsync volume; dmsetup mknodes; mke2fs -q /dev/mapper/volume >/dev/null; mount /dev/mapper/volume /mnt/a`)
	refused("vdb", "/mnt/a (dm-0, ext2)")
	refused("sda", "/mnt/a (dm-0, ext2)")

	tool(ctx, t, q.Socket, "detach", "sda", "--force").want(t, 0)
	inJSON := tool(ctx, t, q.Socket, "detach", "vdb", "--output", "json").want(t, 5)
	wantTexts(t, "the error", inJSON.printed, []string{`"error"`, "/mnt/a"})

	// An agent that does not answer refuses nothing, and does not hold up the detach.
	inGuest(ctx, t, q, "killall -STOP qemu-ga")
	begin := time.Now()
	tool(ctx, t, q.Socket, "--timeout", "1m", "detach", "vdb").want(t, 0).wantStderr(t, "not known whether the guest has mounted the disk")
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the detach took %s", took)
	}
	wantSame(ctx, t, q, before)
}

// TestLibvirtDetachOfAMountedDisk: libvirt asks the agent of a domain that has a channel for it.
func TestLibvirtDetachOfAMountedDisk(t *testing.T) {
	peer.Long(t, "boots a guest with an agent once more; TestDetachOfAMountedDisk asks one in every run")
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Guest: true, Kernel: peer.AgentGuest,
		Devices: "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"}))(t)
	must.OK(t, d.Guest().WaitBoot(ctx))
	before := stateOf(ctx, t, d)
	v := peer.NewVolume(t, peer.DetachedRaw)
	attach := attachArgs(t, v, serialXML(t, v.DiskXML("vdb", "virtio"), "mounted"))
	viaLibvirt(ctx, t, l, d.Name, attach...).want(t, 0)
	dev := guestDisk(ctx, t, d, "mounted")
	inGuest(ctx, t, d, "mke2fs -q "+dev+" && mount "+dev+" /mnt")

	startAgent(ctx, t, d)
	attached := stateOf(ctx, t, d)
	wantOneLine(t, viaLibvirt(ctx, t, l, d.Name, "detach", "vdb", "--persistent").want(t, 5), "/mnt (vda, ext2)", "--force")
	wantOneLine(t, viaLibvirt(ctx, t, l, d.Name, "detach", "vdb", "--agent-socket", d.Control).want(t, 2), "--agent-socket")
	wantSame(ctx, t, d, attached)
	inGuest(ctx, t, d, "umount /mnt")
	viaLibvirt(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
	wantSame(ctx, t, d, before)

	// No agent is running any more: a mounted disk is detached.
	viaLibvirt(ctx, t, l, d.Name, attach...).want(t, 0)
	dev = guestDisk(ctx, t, d, "mounted")
	inGuest(ctx, t, d, "killall qemu-ga; mount "+dev+" /mnt")
	viaLibvirt(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
	wantSame(ctx, t, d, before)
}
