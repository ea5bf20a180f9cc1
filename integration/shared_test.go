package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestSharedHeader: one header for two payloads is refused, under any path and in any VM, unless the user
// allows it; then both are read correctly.
func TestSharedHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 3})
	before := stateOf(ctx, t, q)
	v, other := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
	first := newPlug(t, q, v, "vdb", "virtio", "")
	first.attach(ctx, t)
	xml := other.DiskXML("vdc", "virtio")
	using := func(header string) []string {
		return attachArgs(t, v, serialXML(t, edited(t, xml, other.Header, header), "luks-vdc"))
	}
	twin := filepath.Join(t.TempDir(), "twin.hdr") // an identical copy
	command(ctx, t, "cp", v.Header, twin)
	refusals := []refusal{
		{name: "the file", args: using(v.Header), code: 5, says: []string{v.Header, "in use by disk vdb of this VM", "--allow-shared-header"}},
		{name: "a link", args: using(linked(t, v.Header)), code: 5, says: []string{"in use by disk vdb of this VM", "--allow-shared-header"}},
		{name: "a copy", args: using(twin), code: 5, says: []string{twin, "in use by disk vdb of this VM", "--allow-shared-header"}},
		{name: "for QEMU", args: append(using(v.Header), "--unlock", "qemu"), code: 5, says: []string{v.Header, "in use by disk vdb of this VM"}},
		{name: "for QEMU, although allowed", args: append(using(v.Header), "--unlock", "qemu", "--allow-shared-header"), code: 5, says: []string{v.Header, "in use by disk vdb of this VM"}},
	}
	refuse(ctx, t, q, refusals)

	t.Run("another VM", func(t *testing.T) {
		second := peer.Start(t, peer.Options{RootPorts: 2, Paused: true})
		refuse(ctx, t, second, []refusal{
			{name: "the file", args: using(v.Header), code: 5, says: []string{v.Header, "in use by disk vdb of VM " + q.Socket, "--allow-shared-header"}},
			{name: "a copy", args: using(twin), code: 5, says: []string{twin, "in use by disk vdb of VM " + q.Socket, "--allow-shared-header"}},
		})
		tool(ctx, t, second.Socket, append(using(twin), "--allow-shared-header")...).want(t, 0)
		must.OK(t, second.Close())
	})
	t.Run("allowed", func(t *testing.T) {
		tool(ctx, t, q.Socket, append(using(v.Header), "--allow-shared-header")...).want(t, 0).wantStderr(t, "both payloads have the same key")
		both := *v // the second disk: the first one's header over its own payload
		both.Payload = other.Payload
		second := newPlug(t, q, &both, "vdc", "virtio", "")
		for i, p := range []*plug{first, second} {
			p.write(ctx, t, p.inGuest(ctx, t), []int{5}, fmt.Appendf(nil, "payload %d of a header for two; ", i))
		}
		first.detach(ctx, t)
		second.detach(ctx, t)
		wantSame(ctx, t, q, before)
		for i, p := range []*plug{first, second} {
			p.readOnHost(ctx, t, []int{5}, fmt.Appendf(nil, "payload %d of a header for two; ", i))
		}
	})
	t.Run("free again", func(t *testing.T) {
		// The second VM was killed, and the first has detached the disk.
		tool(ctx, t, q.Socket, using(twin)...).want(t, 0)
		tool(ctx, t, q.Socket, "detach", "vdc").want(t, 0)
		wantSame(ctx, t, q, before)
	})
}

// TestAttachedAnotherWay: a disk is the same with every method, and another one with another header.
func TestAttachedAnotherWay(t *testing.T) {
	t.Parallel()
	ways := []string{"auto", "qemu", "external"}
	for _, first := range ways {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			q := peer.Start(t, peer.Options{RootPorts: 2, SCSI: true, Paused: true})
			before := stateOf(ctx, t, q)
			v, other := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
			twin := filepath.Join(t.TempDir(), "twin.hdr")
			command(ctx, t, "cp", v.Header, twin)
			xml := v.DiskXML("sdb", "scsi")
			args := attachArgs(t, v, xml)
			tool(ctx, t, q.Socket, append(args, "--unlock", first)...).want(t, 0)
			attached := stateOf(ctx, t, q)
			for _, second := range ways {
				again := tool(ctx, t, q.Socket, append(args, "--unlock", second)...).want(t, 0)
				if !strings.HasPrefix(again.stdout, "sdb already attached\n") {
					t.Errorf("attached again with --unlock %s: %s", second, again.stdout)
				}
				for name, header := range map[string]string{"another header": other.Header, "a copy of the header": twin} {
					got := tool(ctx, t, q.Socket, append(attachArgs(t, v, edited(t, xml, v.Header, header)), "--unlock", second)...).want(t, 5)
					if !strings.Contains(got.stderr, "another disk is attached as sdb") {
						t.Errorf("%s with --unlock %s: %s", name, second, got.stderr)
					}
				}
			}
			wantSame(ctx, t, q, attached)
			tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
			wantSame(ctx, t, q, before)
		})
	}
}
