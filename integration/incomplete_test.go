package integration

import (
	"os"
	"testing"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestIncompleteVolume: no way of attaching or starting takes a volume that is marked as the unfinished target of a
// re-encryption, and all take it once it is complete.
func TestIncompleteVolume(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 8})
	for i, kind := range peer.VolumeKinds() {
		v := peer.NewVolume(t, kind)
		l := volume.Location{Path: v.Payload, Header: v.Header}
		must.OK(t, volume.MarkIncomplete(ctx, l))
		target := "vd" + string(rune('b'+i)) // a paused guest releases none
		xml := v.DiskXML(target, "virtio")
		disk := writeFile(t, "disk.xml", xml)
		says := []string{target, "the volume is one of the two of a re-encryption, and lacks a part of the data", "('luksplug volume jobs' shows the re-encryption)"}
		refusals := []refusal{
			{name: "attached", args: attachArgs(t, v, xml), code: 5, says: says},
			{name: "by QEMU", args: append(attachArgs(t, v, xml), "--unlock", "qemu"), code: 5, says: says},
			{name: "by a storage daemon", args: append(attachArgs(t, v, xml), "--unlock", "external"), code: 5, says: says},
			{name: "shared", args: append(attachArgs(t, v, xml), "--allow-shared-header"), code: 5, says: says},
			{name: "planned arguments", args: []string{"--passphrase-file", v.PassphraseFile, "cmdline", disk}, code: 5, says: says},
		}
		if kind == peer.EmbeddedLUKS {
			plain := withoutEncryption(t, v, target)
			refusals = append(refusals, refusal{name: "plain", args: attachArgs(t, v, plain), code: 5, says: append(says, "attach the other volume of its re-encryption")})
		}
		t.Run(string(kind), func(t *testing.T) {
			before := must.Get(os.ReadFile(l.Path))(t)
			refuse(ctx, t, q, refusals)
			if string(must.Get(os.ReadFile(l.Path))(t)) != string(before) {
				t.Error("the image was changed")
			}
			must.OK(t, volume.Complete(ctx, l))
			tool(ctx, t, q.Socket, attachArgs(t, v, xml)...).want(t, 0)
		})
	}
}
