package canon_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/canon"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// disk is the XML of the tests' disk; native is libvirt's command line for it: 32 bytes of ciphertext are a
// passphrase of up to 31.
const (
	disk = `<disk type='network'>
  <driver name='qemu' type='raw' cache='none'/>
  <source protocol='nbd' name='it&apos;s, well' tls='yes'>
    <host name='h'/>
    <encryption format='luks'><secret type='passphrase' usage='u'/></encryption>
  </source>
  <target dev='sdb' bus='scsi'/>
  <boot order='2'/>
  <address type='drive' controller='0' bus='0' target='0' unit='1'/>
</disk>`
	native = `LC_ALL=C \
'/usr/bin/qemu' \
-name guest=a,debug-threads=on \
-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/k"}' \
-device '{"driver":"virtio-scsi-pci","id":"scsi0","bus":"pci.0","addr":"0x3"}' \
-object '{"qom-type":"tls-creds-x509","id":"objlibvirt-1-storage_tls0","dir":"/etc/pki/qemu","endpoint":"client","verify-peer":true}' \
-object '{"qom-type":"secret","id":"libvirt-1-format-encryption-secret0","data":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","keyid":"masterKey0","iv":"MDEyMzQ1Njc4OWFiY2RlZg==","format":"base64"}' \
-blockdev '{"driver":"nbd","server":{"type":"inet","host":"h","port":"10809"},"export":"it'\''s, well","tls-creds":"objlibvirt-1-storage_tls0","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap","cache":{"direct":true,"no-flush":false}}' \
-blockdev '{"node-name":"libvirt-1-format","read-only":false,"cache":{"direct":true,"no-flush":false},"driver":"luks","key-secret":"libvirt-1-format-encryption-secret0","file":"libvirt-1-storage"}' \
-device '{"driver":"scsi-hd","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":1,"device_id":"drive-scsi0-0-0-1","drive":"libvirt-1-format","id":"scsi0-0-0-1","bootindex":2,"write-cache":"on"}' \
-blockdev '{"driver":"file","filename":"/other","node-name":"libvirt-2-storage"}' \
-device '{"driver":"scsi-hd","bus":"scsi0.0","drive":"libvirt-2-storage","id":"ua-other-0"}' \
-msg timestamp=on
`
)

func length(secrets.Reference) (int, error) { return 20, nil }

func plan(t *testing.T, xml string) *blockgraph.Graph {
	t.Helper()
	d, err := diskxml.ParseDisk([]byte(xml))
	must.OK(t, err)
	m := blockgraph.Machine{Type: "pc", SCSI: []blockgraph.SCSIController{{ID: "scsi0", Model: "virtio-scsi"}},
		ThrottleGroups: []blockgraph.ThrottleGroup{{Limits: blockgraph.IOTune{Group: "g", RequestSize: 7}}}}
	g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
	must.OK(t, err)
	return g
}

func forms(t *testing.T, xml, arguments string) (planned, theirs canon.Form) {
	t.Helper()
	planned, err := canon.Planned(plan(t, xml), length)
	must.OK(t, err)
	theirs, err = canon.Native(arguments, "ua-other")
	must.OK(t, err)
	return planned, theirs
}

func TestEqual(t *testing.T) {
	t.Parallel()
	planned, theirs := forms(t, disk, native)
	if d := planned.Diff(theirs); d != nil {
		t.Errorf("%q", d)
	}
	for _, want := range []string{`"id":"drive:key-secret"`, `"blocks":2`, `"node-name":"drive.file"`, `"drive-device"`} {
		if !strings.Contains(theirs.String(), want) {
			t.Errorf("%s is not in\n%s", want, theirs)
		}
	}
	if strings.Contains(theirs.String(), "other") || strings.Contains(theirs.String(), "masterKey0") {
		t.Errorf("parts of other devices are in\n%s", theirs)
	}
}

// TestDifferences: Diff finds every change of libvirt's arguments.
func TestDifferences(t *testing.T) {
	t.Parallel()
	for old, changed := range map[string][2]string{
		`"port":"10809"`:           {`"port":"10810"`, "node drive.file, server"},
		`s, well`:                  {`s well`, "node drive.file, export"},
		`"direct":true`:            {`"direct":false`, "cache"},
		`"auto-read-only":true,`:   {``, "node drive.file, auto-read-only"},
		`"read-only":false`:        {`"read-only":true`, "node drive, read-only"},
		`"lun":1`:                  {`"lun":2`, "device, lun"},
		`"bootindex":2`:            {`"bootindex":3`, "device, bootindex"},
		`"verify-peer":true`:       {`"verify-peer":false`, "object drive.file:tls-creds, verify-peer"},
		`MDEyMzQ1Njc4OWFiY2RlZjAx`: {`MDEyMzQ1Njc4OWFiY2RlZjAxMDEyMzQ1Njc4OWFiY2RlZjAx`, "object drive:key-secret, blocks"},
		`"driver":"luks"`:          {`"driver":"luks","detect-zeroes":"on"`, "node drive, detect-zeroes: none | \"on\""},
		`"id":"scsi0-0-0-1"`:       {`"id":"ua-x"`, "device, id"},
	} {
		t.Run(old, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(native, old) {
				t.Fatal("the arguments lack the old text")
			}
			text := strings.Replace(native, old, changed[0], 1)
			planned, theirs := forms(t, disk, text)
			d := planned.Diff(theirs)
			if !slices.ContainsFunc(d, func(line string) bool { return strings.Contains(line, changed[1]) }) {
				t.Errorf("got %q, want %q", d, changed[1])
			}
		})
	}
}

// TestOrder: the order of objects and nodes is compared.
func TestOrder(t *testing.T) {
	t.Parallel()
	lines := strings.SplitAfter(native, "\n")
	for _, first := range []int{5, 7} {
		swapped := slices.Clone(lines)
		swapped[first], swapped[first+1] = swapped[first+1], swapped[first]
		planned, theirs := forms(t, disk, strings.Join(swapped, ""))
		if d := planned.Diff(theirs); len(d) != 1 || !strings.Contains(d[0], "s: ") {
			t.Errorf("lines %d and %d were swapped: %q", first, first+1, d)
		}
	}
}

func TestWithout(t *testing.T) {
	t.Parallel()
	planned, theirs := forms(t, disk, strings.Replace(native, `"bootindex":2`, `"bootindex":1`, 1))
	if planned.Diff(theirs) == nil || planned.Without("bootindex").Diff(theirs.Without("bootindex")) != nil {
		t.Error("the boot index is compared although it was removed, or not compared before")
	}
	if _, ok := planned.Device["bootindex"]; !ok {
		t.Error("Without changed its form")
	}
}

// TestOtherParts compares a character device, the boot index of a floppy drive, and limits.
func TestOtherParts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string][2]string{
		"vhost-user": {`<disk type='vhostuser'><source type='unix' path='/run/a,b'/><target dev='vda' bus='virtio'/><address type='pci' slot='5'/></disk>`,
			`q -chardev socket,id=chr-vu-virtio-disk0,path=/run/a,,b,reconnect-ms=0 -device '{"driver":"vhost-user-blk-pci","bus":"pci.0","addr":"0x5","chardev":"chr-vu-virtio-disk0","id":"virtio-disk0"}'`},
		"floppy": {`<disk device='floppy'><source file='/a'/><target dev='fdb'/><boot order='3'/></disk>`,
			`q -blockdev '{"driver":"file","filename":"/a","node-name":"n","read-only":false}' -device isa-fdc,bootindexB=3 -device floppy,unit=1,drive=n,id=fdc0-0-1`},
		"throttled": {`<disk><source file='/a'/><target dev='vda'/><throttlefilters><throttlefilter group='g'/></throttlefilters><address type='pci' slot='5'/></disk>`,
			`q -object '{"qom-type":"throttle-group","id":"throttle-g","limits":{"bps-total":0,"bps-read":0,"bps-write":0,"iops-total":0,"iops-read":0,"iops-write":0,"bps-total-max":0,"bps-read-max":0,"bps-write-max":0,"iops-total-max":0,"iops-read-max":0,"iops-write-max":0,"iops-size":7}}' ` +
				`-blockdev '{"driver":"file","filename":"/a","node-name":"n","read-only":false}' -blockdev '{"driver":"throttle","node-name":"f","throttle-group":"throttle-g","file":"n"}' -device '{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x5","drive":"f","id":"virtio-disk0"}'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			planned, theirs := forms(t, c[0], c[1])
			if name == "floppy" {
				theirs.Device["unit"] = planned.Device["unit"] // a text in the old notation
			}
			if d := planned.Diff(theirs); d != nil {
				t.Errorf("%q", d)
			}
		})
	}
}

func TestNativeErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`q -device 'x`:                  "split the arguments",
		`q -device virtio-net-pci,id=a`: "no disk",
		`q -device virtio-blk-pci,id=a -device virtio-blk-pci,id=b`:    "two disks",
		`q -device '{"driver":"virtio-blk-pci","id":"a","drive":"n"}'`: `the node "n", which does not exist`,
		`q -device '{"driver":'`: "decode",
		`q -object '{"qom-type":"secret","id":"s","keyid":"k","data":"!"}'`:                                    "secret s",
		`q -blockdev '{"driver":"luks","node-name":"n","key-secret":"s"}' -device virtio-blk-pci,id=a,drive=n`: `object "s", which does not exist`,
		`q -blockdev '{"driver":"raw","node-name":"n","file":"n"}' -device virtio-blk-pci,id=a,drive=n`:        "both",
	} {
		if _, err := canon.Native(text, "other"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestPlannedError(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	if _, err := canon.Planned(plan(t, disk), func(secrets.Reference) (int, error) { return 0, lost }); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}
