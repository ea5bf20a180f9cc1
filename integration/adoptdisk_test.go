package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// byHand returns the commands of QEMU's documents that attach a volume without luksplug, each
// with its arguments. Its nodes are called hand-luks, hand-payload and hand-header.
func byHand(t *testing.T, v *peer.Volume, device map[string]any) (commands []string) {
	t.Helper()
	add := func(command string, arguments map[string]any) {
		text := must.Get(json.Marshal(map[string]any{"execute": command, "arguments": arguments}))(t)
		commands = append(commands, string(text))
	}
	storage := func(node, path string) {
		driver := "file"
		if strings.HasPrefix(path, "/dev/") {
			driver = "host_device"
		}
		add("blockdev-add", map[string]any{"driver": driver, "node-name": node, "filename": path})
	}
	add("object-add", map[string]any{"qom-type": "secret", "id": "hand-secret", "data": string(v.Passphrase)})
	storage("hand-payload", v.Payload)
	luks := map[string]any{"driver": "luks", "node-name": "hand-luks", "file": "hand-payload", "key-secret": "hand-secret"}
	if v.Header != "" {
		storage("hand-header", v.Header)
		luks["header"] = "hand-header"
	}
	add("blockdev-add", luks)
	device["id"], device["drive"] = "hand-disk", "hand-luks"
	add("device_add", device)
	return commands
}

// attachByHand executes the commands of byHand.
func attachByHand(ctx context.Context, t *testing.T, q *peer.QEMU, v *peer.Volume, device map[string]any) {
	t.Helper()
	m := must.Get(q.Monitor(ctx))(t)
	for _, text := range byHand(t, v, device) {
		var c struct {
			Execute   string
			Arguments map[string]any
		}
		must.OK(t, json.Unmarshal([]byte(text), &c))
		must.Get(m.Execute(ctx, c.Execute, c.Arguments))(t)
	}
}

// adopted is what adopt prints as JSON.
type adopted struct {
	Target, State, Device string
	Parts                 []string
	Adopted               bool
	Already               bool   `json:"already_adopted"`
	Secret                string `json:"secret_object"`
	Verified              bool   `json:"secret_verified"`
	XML                   string `json:"disk_xml"`
}

// TestAdoptDiskInGuest: a disk that was attached by hand is adopted while the guest uses it, and
// detached; later commands know it.
func TestAdoptDiskInGuest(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	attachByHand(ctx, t, q, v, map[string]any{"driver": "virtio-blk-pci", "bus": "rp1", "serial": "by-hand"})
	dev := guestDisk(ctx, t, q, "by-hand")
	pattern := []byte("written before and after the adoption. ")
	must.OK(t, q.Guest().WritePattern(ctx, dev, 1, 1, pattern))
	attached := stateOf(ctx, t, q)
	tool(ctx, t, q.Socket, "detach", "vdb").want(t, 5) // it is not luksplug's

	adopt := func(more ...string) result {
		return tool(ctx, t, q.Socket, append([]string{"--passphrase-file", v.PassphraseFile, "adopt", "--node", "hand-luks", "--secret", v.SecretUUID, "vdb"}, more...)...)
	}
	for _, args := range [][]string{
		{"adopt", "--secret", v.SecretUUID, "vdb"}, {"adopt", "--node", "hand-luks", "vdb"}, {"adopt", "--node", "hand-luks", "--secret", "no uuid", "vdb"},
		{"adopt", "--node", "hand-luks", "--secret", "iscsi:x", "vdb"}, {"adopt", "--node", "hand-luks", "--secret", v.SecretUUID, "/dev/vdb"},
	} {
		tool(ctx, t, q.Socket, args...).want(t, 2)
	}
	tool(ctx, t, q.Socket, "adopt", "--node", "nowhere", "--secret", v.SecretUUID, "vdb").want(t, 5).wantStderr(t, "no block node nowhere", "list --all shows the VM's nodes")
	wrong := tool(ctx, t, q.Socket, "--passphrase-file", writeFile(t, "wrong", "wrong"), "adopt", "--node", "hand-luks", "--secret", v.SecretUUID, "vdb").want(t, 4)
	wantOneLine(t, wrong, "does not open "+v.Header)
	adopt("--dry-run").want(t, 0).wantStdout(t, "<target dev='vdb' bus='virtio'/>").wantStderr(t, "vdb can be adopted", "node hand-header", "hand-secret would be removed")
	wantSame(ctx, t, q, attached)

	got := adopt().want(t, 0).wantStderr(t, "vdb adopted", "object hand-secret was removed")
	xml := writeFile(t, "vdb.xml", got.stdout)
	var again adopted
	adopt("--output", "json").want(t, 0).decode(t, &again)
	if !again.Already || !again.Adopted || again.XML != got.stdout || again.Device != "hand-disk" {
		t.Errorf("adopted again: %+v", again)
	}
	disks := disksIn[listEntry](t, tool(ctx, t, q.Socket, "list", "--output", "json"))
	if len(disks) != 1 || disks[0].Target != "vdb" || disks[0].State != "attached" || disks[0].Payload != v.Payload || disks[0].Header != v.Header {
		t.Errorf("list %+v", disks)
	}
	tool(ctx, t, q.Socket, "list", "--all", "--output", "json").want(t, 0).wantStdout(t, `"target": "vdb"`)
	tool(ctx, t, q.Socket, "--passphrase-file", v.PassphraseFile, "attach", xml).want(t, 0).wantStdout(t, "vdb already attached")
	tool(ctx, t, q.Socket, "repair").want(t, 0)
	must.OK(t, q.Guest().WritePattern(ctx, dev, 2, 1, pattern))

	tool(ctx, t, q.Socket, "--timeout", "1m", "detach", xml).want(t, 0).wantStdout(t, "vdb detached")
	wantSame(ctx, t, q, before)
	plain, err := v.ReadThrough(ctx, peer.MiB, 2*peer.MiB)
	if err != nil || !bytes.Equal(plain, bytes.Repeat(peer.Pattern(pattern), 2)) {
		t.Errorf("the host does not read what the guest wrote; error %v", err)
	}
	if left, err := peer.ReadHost(q.UUID); err != nil || len(left) > 0 {
		t.Errorf("after the detach there are %v, error %v", left, err)
	}
	tool(ctx, t, q.Socket, "--passphrase-file", v.PassphraseFile, "attach", xml).want(t, 0).wantStdout(t, "vdb attached")
	guestDisk(ctx, t, q, "by-hand")
}

// TestAdoptDiskInDomain: a disk that was attached through 'virsh qemu-monitor-command' is
// adopted, recorded and signed, and is there after a save and restore by the hook. A disk of
// libvirt's own is refused.
func TestAdoptDiskInDomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	l := h.Libvirt
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, Guest: true}))(t)
	must.OK(t, d.Guest().WaitBoot(ctx))
	before := stateOf(ctx, t, d)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.learn(t, v)
	for _, command := range byHand(t, v, map[string]any{"driver": "virtio-blk-pci", "bus": "pci.5", "addr": "0x0", "serial": "by-hand"}) {
		virsh(ctx, t, l, "qemu-monitor-command", d.Name, command)
	}
	dev := guestDisk(ctx, t, d, "by-hand")
	adopt := func(more ...string) result {
		return inside(ctx, t, l, append([]string{"--domain", d.Name, "adopt", "--secret", v.SecretUUID}, more...)...)
	}
	image := sized(t, "libvirt.img", 8*peer.MiB)
	virsh(ctx, t, l, "attach-disk", d.Name, image, "vdc", "--live", "--sourcetype", "file", "--driver", "qemu", "--subdriver", "raw")
	adopt("--node", "hand-luks", "vdc").want(t, 5).wantStderr(t, "target 'vdc' duplicated")
	adopt("--node", theirNode(ctx, t, d), "vdb").want(t, 5).wantStderr(t, "detach that one with virsh")
	unplugByLibvirt(ctx, t, l, d, "vdc")
	wantNoRecord(ctx, t, l, d, "--live", "--config")

	var got adopted
	adopt("--node", "hand-luks", "--output", "json", "vdb").want(t, 0).decode(t, &got)
	if !got.Verified || got.Secret != "hand-secret" {
		t.Errorf("adopted: %+v", got)
	}
	wantRecorded(ctx, t, l, d, recordedDisk{"vdb", "attached", "", []string{"live"}})
	inside(ctx, t, l, "--domain", d.Name, "repair").want(t, 0)
	inside(ctx, t, l, "--domain", d.Name, "repair", "--adopt", "--yes").want(t, 0).wantStdout(t, "there is nothing to sign")
	if text := metadata(ctx, l, d.Name, "--live"); !strings.Contains(text, v.Payload) || strings.Contains(text, string(v.Passphrase)) {
		t.Errorf("recorded: %s", text)
	}
	// The derived XML is that of the same disk, also for the definition.
	xml := writeFile(t, "vdb.xml", got.XML)
	inside(ctx, t, l, "hook", "enable", d.Name, "--yes").want(t, 0)
	inside(ctx, t, l, "--domain", d.Name, "attach", xml).want(t, 0).wantStdout(t, "vdb already attached")

	must.OK(t, d.Guest().WritePattern(ctx, dev, 1, 1, []byte("before the save. ")))
	hash := must.Get(d.Guest().ReadHash(ctx, dev, 1, 1))(t)
	virsh(ctx, t, l, "managedsave", d.Name)
	virsh(ctx, t, l, "start", d.Name)
	must.OK(t, d.Reconnect(ctx))
	if after, err := d.Guest().ReadHash(ctx, dev, 1, 1); err != nil || after != hash {
		t.Errorf("after the restore: %v, %v", after, err)
	}
	wantRecorded(ctx, t, l, d, recordedDisk{"vdb", "attached", "", []string{"live"}})
	inside(ctx, t, l, "--domain", d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
	wantNoRecord(ctx, t, l, d, "--live")
	if after := stateOf(ctx, t, d); fmt.Sprint(after.Objects) != fmt.Sprint(before.Objects) {
		t.Errorf("objects before %v, after %v", before.Objects, after.Objects)
	}
}

// TestAdoptDiskOnBlockDevices: payload and header may be block devices.
func TestAdoptDiskOnBlockDevices(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	v.Payload, v.Header = loopDevice(t, v.Payload), loopDevice(t, v.Header)
	attachByHand(ctx, t, q, v, map[string]any{"driver": "scsi-hd", "bus": "scsi0.0"})
	adopt := []string{"--passphrase-file", v.PassphraseFile, "adopt", "--node", "hand-luks", "--secret", v.SecretUUID, "sda"}
	got := tool(ctx, t, q.Socket, adopt...).want(t, 0).wantStdout(t, "<disk type='block'", "<source dev='"+v.Payload+"'", "<header type='block'>")
	xml := writeFile(t, "sda.xml", got.stdout)
	tool(ctx, t, q.Socket, "--passphrase-file", v.PassphraseFile, "attach", xml).want(t, 0).wantStdout(t, "sda already attached")
	tool(ctx, t, q.Socket, "detach", "sda").want(t, 0)
	wantSame(ctx, t, q, before)
}

// theirNode returns the name of a node of libvirt's.
func theirNode(ctx context.Context, t *testing.T, d *peer.Domain) string {
	t.Helper()
	var nodes []struct {
		Name string `json:"node-name"`
	}
	reply := must.Get(must.Get(d.Monitor(ctx))(t).Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}))(t)
	must.OK(t, json.Unmarshal(reply, &nodes))
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, "libvirt-") {
			return n.Name
		}
	}
	t.Fatal("libvirt has no node")
	return ""
}
