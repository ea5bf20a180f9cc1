package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestLibvirtPool attaches header and payload that are volumes of a pool. Volumes that libvirt does not have
// are refused.
func TestLibvirtPool(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true}))(t) // a VM that has not run releases SCSI disks
	v := peer.NewVolume(t, peer.DetachedQcow2)
	dir := t.TempDir()
	for name, path := range map[string]string{"data": v.Payload, "header": v.Header} {
		must.OK(t, os.Rename(path, filepath.Join(dir, name)))
	}
	virsh(ctx, t, l, "pool-create-as", "disks", "dir", "--target", dir)
	xml := func(pool, data string) string {
		return `<disk type='volume'><driver type='qcow2'/>
  <source pool='` + pool + `' volume='` + data + `'><encryption format='luks'><secret type='passphrase' uuid='` + v.SecretUUID + `'/>
    <header type='volume'><source pool='disks' volume='header'/></header></encryption></source>
  <target dev='sdb' bus='scsi'/></disk>`
	}
	before := stateOf(ctx, t, d)

	planned := viaLibvirt(ctx, t, l, d.Name, "plan", writeFile(t, "disk.xml", xml("disks", "data"))).want(t, 0)
	if want := "filename=" + filepath.Join(dir, "data"); !strings.Contains(planned.stdout, want) {
		t.Errorf("the plan has no %s:\n%s", want, planned.stdout)
	}
	viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, xml("disks", "data"))...).want(t, 0).wantStdout(t, filepath.Join(dir, "header"))
	viaLibvirt(ctx, t, l, d.Name, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, d, before)

	refused := func(disk string, says ...string) {
		t.Helper()
		wantOneLine(t, viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, disk)...).want(t, 5), says...)
		wantSame(ctx, t, d, before)
	}
	refused(xml("disks", "nothing"), "volume nothing of the pool disks", "no storage vol with matching name 'nothing'")
	refused(xml("none", "data"), "no storage pool with matching name 'none'")
	virsh(ctx, t, l, "pool-define-as", "idle", "dir", "--target", t.TempDir())
	refused(xml("idle", "data"), "not active", "pool-start idle")
	// Without libvirt.
	run(ctx, t, exec.CommandContext(ctx, luksplug, "plan", writeFile(t, "disk.xml", xml("disks", "data")))).want(t, 2).wantStderr(t, "'disks'", "(give the pool's XML with --pool-xml")
}

// TestLibvirtContext: names and addresses of the domain's own XML are refused for a further disk, whether or
// not QEMU would accept them.
func TestLibvirtContext(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	image := sized(t, "first.img", 8*peer.MiB)
	d, err := l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Devices: `<disk type='file'><driver type='raw'/><source file='` + image + `'/>
  <target dev='sda' bus='scsi'/><iotune><total_iops_sec>100</total_iops_sec><group_name>shared</group_name></iotune>
  <serial>first</serial><wwn>5000c50015ea71ad</wwn></disk>`})
	must.OK(t, err)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	before := stateOf(ctx, t, d)
	for _, c := range []struct{ target, extra, says string }{
		{"sda", "", "target 'sda' duplicated"},
		{"sdb", "<serial>first</serial>", "identical serial"},
		{"sdb", "<wwn>5000c50015ea71ad</wwn>", "identical WWN"},
		{"sdb", "<iotune><total_iops_sec>200</total_iops_sec><group_name>shared</group_name></iotune>", "share the group 'shared'"},
	} {
		disk := strings.Replace(v.DiskXML(c.target, "scsi"), "</disk>", c.extra+"</disk>", 1)
		wantOneLine(t, viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, disk)...).want(t, 5), c.says)
		wantSame(ctx, t, d, before)
	}
	disk := strings.Replace(v.DiskXML("sdb", "scsi"), "</disk>", "<serial>second</serial></disk>", 1)
	viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, disk)...).want(t, 0)
	viaLibvirt(ctx, t, l, d.Name, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, d, before)
}
