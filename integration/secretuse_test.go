package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// usedSecrets is a key store with secrets that documents of a libvirtd name.
type usedSecrets struct {
	*peer.Libvirt
	t    *testing.T
	keys string
}

// define makes a secret with a value, and returns its uuid.
func (u *usedSecrets) define(ctx context.Context, usage string) string {
	u.t.Helper()
	id := uuid.NewString()
	u.secret(ctx, 0, "define", writeFile(u.t, "secret.xml", "<secret><uuid>"+id+"</uuid>"+usage+"</secret>"))
	u.secret(ctx, 0, "set-value", id, "--file", writeFile(u.t, "value", "letmein"))
	return id
}

// secret runs a command of luksplug secret on the host of the libvirtd, which is the usual one there.
func (u *usedSecrets) secret(ctx context.Context, code int, args ...string) result {
	u.t.Helper()
	return run(ctx, u.t, u.Inside(ctx, luksplug, append([]string{"--keystore", "dir:" + u.keys, "secret"}, args...)...)).want(u.t, code)
}

// kept checks that a secret is not removed, because of what the error says.
func (u *usedSecrets) kept(ctx context.Context, id string, says ...string) {
	u.t.Helper()
	got := u.secret(ctx, 5, "undefine", id)
	for _, text := range append(says, "--force") {
		got.wantStderr(u.t, text)
	}
	if text := must.Get(os.ReadFile(filepath.Join(u.keys, id)))(u.t); string(text) != "letmein" {
		u.t.Errorf("the value is %d other bytes", len(text))
	}
}

// TestSecretsOfDocuments: a secret is not removed while a document of libvirt names it, or while the volume
// exists to which it is bound, unless the user insists; and without a libvirtd the documents are read from its files.
func TestSecretsOfDocuments(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	u := &usedSecrets{peer.Libvirtd(t), t, t.TempDir()}
	volume := filepath.Join(t.TempDir(), "bound.img")
	must.OK(t, os.WriteFile(volume, nil, 0o600))
	embedded, ceph := u.define(ctx, ""), u.define(ctx, "<usage type='ceph'><name>client.vm1</name></usage>")
	recorded, snapshot := u.define(ctx, ""), u.define(ctx, "")
	bound, unused := u.define(ctx, "<usage type='volume'><volume>"+volume+"</volume></usage>"), u.define(ctx, "")
	disk := func(target, id string) string {
		return fmt.Sprintf("<disk type='file' device='disk'><source file='/images/%[1]s.img'><encryption format='luks'><secret type='passphrase' uuid='%[2]s'/></encryption></source><target dev='%[1]s' bus='virtio'/></disk>", target, id)
	}
	d := must.Get(u.StartDomain(ctx, peer.DomainOptions{
		Name: "vm1", Persistent: true, Off: true,
		Other: "<metadata><luksplug:disks xmlns:luksplug='https://github.com/luksplug/luksplug/disks/1'><luksplug:disk target='vdd' start='qemu'>" + disk("vdd", recorded) + "</luksplug:disk></luksplug:disks></metadata>",
		Devices: disk("vdb", embedded) +
			"<disk type='network' device='disk'><driver name='qemu' type='raw'/><auth username='vm1'><secret type='ceph' usage='client.vm1'/></auth><source protocol='rbd' name='p/i'><host name='192.0.2.1'/></source><target dev='vdc' bus='virtio'/></disk>",
	}))(t)
	// The snapshot has a disk that the domain no longer has.
	definition := virsh(ctx, t, u.Libvirt, "dumpxml", d.Name)
	earlier := strings.Replace(definition, "<devices>", "<devices>"+disk("vde", snapshot), 1)
	virsh(ctx, t, u.Libvirt, "snapshot-create", d.Name, writeFile(t, "snapshot.xml", "<domainsnapshot><name>before</name><state>shutoff</state><creationTime>1</creationTime>"+earlier+"</domainsnapshot>"), "--redefine")

	u.kept(ctx, embedded, "disk vdb of domain vm1, in its definition (/images/vdb.img)")
	u.kept(ctx, ceph, "disk vdc of domain vm1, in its definition (p/i)")
	u.kept(ctx, recorded, "disk vdd of domain vm1, in its definition (/images/vdd.img)")
	u.kept(ctx, snapshot, "disk vde of domain vm1, in its snapshot")
	u.kept(ctx, bound, "the volume "+volume+", to which its document binds it")
	if got := u.secret(ctx, 0, "undefine", unused); got.stderr != "" {
		t.Errorf("it warns: %s", got.stderr)
	}
	u.secret(ctx, 0, "undefine", ceph, "--force").wantStderr(t, "was in use")
	must.OK(t, os.Remove(volume))
	u.secret(ctx, 0, "undefine", bound)
	bound, unused = u.define(ctx, "<usage type='volume'><volume>"+volume+"</volume></usage>"), u.define(ctx, "")
	must.OK(t, os.WriteFile(volume, nil, 0o600))
	away := func(from, to string) {
		t.Helper()
		run(ctx, t, u.Inside(ctx, "mv", from, to)).want(t, 0)
	}
	// Another libvirt than the usual one has to answer.
	nowhere := "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
	inside(ctx, t, u.Libvirt, "--connect", nowhere, "--keystore", "dir:"+u.keys, "secret", "undefine", unused).want(t, 1).wantStderr(t, "--force")
	away("/run/libvirt/libvirt-sock", "/run/libvirt/away")
	u.kept(ctx, embedded, "disk vdb of domain vm1, in its definition", "were not looked at")
	u.kept(ctx, recorded, "disk vdd")
	u.kept(ctx, snapshot, "disk vde of domain vm1, in its snapshot")
	u.kept(ctx, bound, volume)
	u.secret(ctx, 0, "undefine", unused).wantStderr(t, "were not looked at")
	run(ctx, t, u.Inside(ctx, "sh", "-c", "echo '<domain' > /etc/libvirt/qemu/damaged.xml")).want(t, 0)
	last := u.define(ctx, "")
	u.secret(ctx, 1, "undefine", last).wantStderr(t, "damaged")
}

// TestSecretOfASavedState: a saved state names a secret that the definition does not have any longer.
func TestSecretOfASavedState(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	d := h.defineWith(ctx, t, peer.DomainOptions{}, plugged{volume: v, target: "vdb"})
	virsh(ctx, t, h.Libvirt, "start", "--paused", d.Name)
	undefine := func(code int) result {
		t.Helper()
		return inside(ctx, t, h.Libvirt, "secret", "undefine", v.SecretUUID).want(t, code)
	}
	undefine(5).wantStderr(t, "disk vdb of VM "+d.Name)
	virsh(ctx, t, h.Libvirt, "managedsave", d.Name)
	h.tool(ctx, t, d, "detach", "vdb").want(t, 0) // from the definition
	undefine(5).wantStderr(t, "disk vdb of domain "+d.Name+", in its saved state")
	virsh(ctx, t, h.Libvirt, "managedsave-remove", d.Name)
	undefine(0)
}

// TestReplacedValue: the value of a secret in use is replaced by one that opens the volume, and by no other.
func TestReplacedValue(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	u := &usedSecrets{peer.Libvirtd(t), t, t.TempDir()}
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	id := u.define(ctx, "<usage type='volume'><volume>"+v.Payload+"</volume></usage>")
	right, wrong := v.PassphraseFile, writeFile(t, "wrong", "another")
	u.secret(ctx, 5, "set-value", id, "--file", wrong).wantStderr(t, v.Payload)
	u.secret(ctx, 0, "set-value", id, "--file", right)
	u.secret(ctx, 0, "set-value", id, "--file", right)
	u.secret(ctx, 5, "set-value", id, "--file", wrong).wantStderr(t, "does not open the volume")
	if text := must.Get(os.ReadFile(filepath.Join(u.keys, id)))(t); !bytes.Equal(text, v.Passphrase) {
		t.Errorf("the value is %d other bytes", len(text))
	}
	u.secret(ctx, 0, "set-value", id, "--file", wrong, "--force")
	free := u.define(ctx, "")
	u.secret(ctx, 0, "set-value", free, "--file", wrong)
}
