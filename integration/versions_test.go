package integration

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestOldQEMU: QEMU 7.2 cannot open a detached header. It gets the passphrase of the volumes that it can unlock itself
// if the user has chosen that; otherwise they are refused.
func TestOldQEMU(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Binary: peer.MatrixQEMU(t, "bookworm"), Guest: true, RootPorts: 2})
	v, embedded := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.EmbeddedLUKS)
	two := peer.NewFormatted(t, peer.EmbeddedLUKS, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	refuse(ctx, t, q, []refusal{
		{name: "by the default policy", args: attachArgs(t, embedded, embedded.DiskXML("vdb", "virtio")), code: 5,
			says: []string{"no other header than the volume's own", "9.0", "--unlock qemu", "--unlock external"}},
		{name: "detached header", args: append(attachArgs(t, v, v.DiskXML("vdb", "virtio")), "--unlock", "qemu"), code: 3,
			says: []string{"QEMU 7.2", "detached LUKS header", "9.0"}},
		{name: "LUKS2", args: append(attachArgs(t, two, two.DiskXML("vdb", "virtio")), "--unlock", "qemu"), code: 3,
			says: []string{two.Payload, "QEMU's own driver", "LUKS2"}},
		{name: "discard_no_unref", args: attachArgs(t, v, edited(t, peer.NewVolume(t, peer.Qcow2LUKS).DiskXML("vdb", "virtio"), "type='qcow2'", "type='qcow2' discard_no_unref='on'")), code: 3,
			says: []string{"QEMU 7.2", "<driver discard_no_unref=...>", "8.1", "remove the attribute"}},
	})
	must.OK(t, q.Guest().WaitBoot(ctx))
	before := stateOf(ctx, t, q)
	p := newPlug(t, q, embedded, "vdb", "virtio", "")
	p.unlock = "qemu"
	tool(ctx, t, q.Socket, append([]string{"-v"}, p.attachArgs()...)...).want(t, 0).wantUnlock(t, "qemu").wantStderr(t, "the guest stalls", "for about 0.")
	p.inGuest(ctx, t)
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)

	// A storage daemon of this machine's QEMU serves it by NBD, which old versions support.
	p.unlock = "external"
	quiet := tool(ctx, t, q.Socket, p.attachArgs()...).want(t, 0)
	if quiet.stderr != "" {
		t.Errorf("warned of %s", quiet.stderr)
	}
	p.inGuest(ctx, t)
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)
}

// TestNewestQEMU: the newest QEMU accepts an ephemeral header, and writes the same.
func TestNewestQEMU(t *testing.T) {
	peer.Long(t, "boots a guest of another QEMU; TestAttachToVersions attaches disks to it in every run")
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{Binary: peer.NewestQEMU(t), RootPorts: 2})
	for _, f := range formats() {
		if strings.Contains(f.name, "LUKS1 detached") || strings.Contains(f.name, "argon2id") {
			t.Run(f.name, func(t *testing.T) {
				bitByBit(bounded(t), t, q, peer.NewFormatted(t, f.kind, f.format...), f.chaining())
			})
		}
	}
}
