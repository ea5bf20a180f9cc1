package hook

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// FuzzEvent: libvirt passes on what its clients have written: names, and a domain with a
// record in its metadata and with QEMU arguments. Whatever that is, reading it ends without a
// panic, and gives no volume of a secret that is not among the disk's images.
func FuzzEvent(f *testing.F) {
	const uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	domain := func(metadata, arguments string) string {
		return "<domain xmlns:qemu='" + domainxml.QEMU + "'><name>vm1</name><uuid>" + uuid + "</uuid><metadata>" + metadata + "</metadata>" + arguments + "</domain>"
	}
	recorded := "<l:disks xmlns:l='" + record.Namespace + "' user='+64055:+109'><l:disk target='vdb' start='ephemeral'><disk type='file'><source file='/img'>" +
		"<encryption format='luks'><secret type='passphrase' usage='/img'/><header type='file'><source file='/hdr'/></header></encryption></source>" +
		"<target dev='vdb' bus='virtio'/></disk><l:device>{\"driver\":\"virtio-blk-pci\",\"id\":\"luksplug-vdb\"}</l:device><l:owner path='/img' uid='0' gid='0'/></l:disk></l:disks>"
	arguments := "<qemu:commandline>"
	for _, a := range domainxml.MonitorArguments(MonitorDir, uuid) {
		arguments += "<qemu:arg value='" + strings.NewReplacer("&", "&amp;", "'", "&apos;", "<", "&lt;").Replace(a) + "'/>"
	}
	arguments += "</qemu:commandline>"
	f.Add("vm1", "prepare", "-", domain(recorded, arguments))
	f.Add("vm1", "release", "destroyed", domain("", arguments))
	f.Add("vm1", "restore", "-", domain(strings.Replace(recorded, "'vdb'", "'../../etc'", 1), ""))
	f.Add("../x", "started", "", domain(recorded, "<qemu:commandline><qemu:arg value='-chardev'/><qemu:arg value='socket,id=luksplug,path=/etc/x/qmp'/></qemu:commandline>"))
	f.Add("", "", "", "<domain/>")
	f.Fuzz(func(t *testing.T, name, operation, extra, xml string) {
		e := Event{Domain: name, Operation: Operation(operation), Extra: extra, XML: []byte(xml)}
		_ = e.UUID()
		d, err := e.read()
		if d == nil {
			if err == nil {
				t.Error("neither a domain nor an error")
			}
			return
		}
		_ = d.concerns()
		for _, r := range d.record.Disks {
			disk, err := coldstart.RecordedDisk(d.doc, r)
			if err != nil {
				continue
			}
			images := map[string]bool{}
			for _, i := range disk.Disk.Images() {
				images[i.Source.Path] = true
			}
			for _, ref := range disk.Disk.Secrets() {
				for _, v := range volumes(disk.Disk, ref) {
					if !images[v] {
						t.Errorf("the volume %q is no image of the disk", v)
					}
				}
			}
		}
	})
}

// FuzzListedDomain: the files in libvirt's directories.
func FuzzListedDomain(f *testing.F) {
	f.Add("<domain type='kvm'><name>vm1</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid></domain>")
	f.Add("<domstatus state='running' reason='booted' pid='4711'><domain><name>vm1</name><uuid>x</uuid></domain></domstatus>")
	f.Add("<!-- WARNING --><domain/>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDomain([]byte(text), "file")
		if err == nil && d.file != "file" {
			t.Errorf("%+v", d)
		}
	})
}
