package diskxml_test

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/secrets"
)

func TestParseDiskAccepts(t *testing.T) {
	t.Parallel()
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse(blocktest.AnyUUID)}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "/vols/a b"}
	enc := `<encryption format='luks'><secret type='passphrase' uuid='` + blocktest.AnyUUID + `'/></encryption>`
	header := func(attrs, inner string) string {
		return `<disk><source file='/a'><encryption format='luks'><secret type='passphrase' uuid='` + blocktest.AnyUUID +
			`'/><header ` + attrs + `>` + inner + `</header></encryption></source><target dev='vdb'/></disk>`
	}
	withHeader := func(kind blockgraph.SourceKind, format blockgraph.Format) *blockgraph.Disk {
		return blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS, Secrets: []secrets.Reference{byUUID}, Header: &blockgraph.Image{
				Source: blockgraph.Source{Kind: kind, Path: "/h"}, Format: format}}
		})
	}
	disk := func(inner string) string {
		return `<disk><source file='/a'/><target dev='vdb'/>` + inner + `</disk>`
	}
	target := func(attrs string) string { return `<disk><source file='/a'/><target ` + attrs + `/></disk>` }
	onBus := func(dev string, bus blockgraph.Bus) *blockgraph.Disk {
		return blocktest.Plain(func(d *blockgraph.Disk) { d.Target, d.Bus = dev, bus })
	}
	driver := func(attrs string) string { return disk(`<driver ` + attrs + `/>`) }
	tuned := func(v blockgraph.Driver) *blockgraph.Disk {
		return blocktest.Plain(func(d *blockgraph.Disk) { d.Driver = v })
	}

	cases := []struct {
		name, doc string
		want      *blockgraph.Disk
	}{
		{"least", disk(""), blocktest.Plain(func(*blockgraph.Disk) {})},
		{"declaration, comments, white space", "<?xml version='1.0' encoding='UTF-8'?>\n<!-- a -->\n" + disk("<!-- b -->\n") + "\n<!-- c -->", blocktest.Plain(func(*blockgraph.Disk) {})},
		{"defaults spelt out", `<disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw' cache='default'/><source file='/a' index='7'/><target dev='vdb' bus='virtio'/><alias name='virtio-disk1'/></disk>`, blocktest.Plain(func(*blockgraph.Disk) {})},
		{"block", `<disk type='block'><source dev='/dev/x'/><target dev='vdb'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Source = blockgraph.Source{Kind: blockgraph.SourceBlock, Path: "/dev/x"}
		})},
		{"qcow2", driver("type='qcow2'"), blocktest.Plain(func(d *blockgraph.Disk) { d.Image.Format = blockgraph.FormatQcow2 })},
		{"aio is raw", driver("type='aio'"), blocktest.Plain(func(*blockgraph.Disk) {})},
		{"no backing file", disk("<backingStore/>"), blocktest.Plain(func(d *blockgraph.Disk) { d.Image.Terminated = true })},
		{"encryption under source", `<disk><source file='/a'>` + enc + `</source><target dev='vdb'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS, Secrets: []secrets.Reference{byUUID}}
		})},
		{"encryption under disk", disk(enc), blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS, Secrets: []secrets.Reference{byUUID}}
		})},
		{"engine qemu", disk(strings.Replace(enc, "format=", "engine='qemu' format=", 1)), blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS, Engine: blockgraph.EngineQEMU, Secrets: []secrets.Reference{byUUID}}
		})},
		{"secret by usage", disk(`<encryption format='luks'><secret type='passphrase' usage='/vols/a b'/></encryption>`), blocktest.Plain(func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS, Secrets: []secrets.Reference{byUsage}}
		})},
		{"header, raw file by default", header("", `<source file='/h'/>`), withHeader(blockgraph.SourceFile, blockgraph.FormatRaw)},
		{"header, raw file", header("type='file'", `<format type='raw'/><source file='/h'/>`), withHeader(blockgraph.SourceFile, blockgraph.FormatRaw)},
		{"header, raw block", header("type='block'", `<source dev='/h'/>`), withHeader(blockgraph.SourceBlock, blockgraph.FormatRaw)},
		{"header, qcow2 file", header("type='file'", `<format type='qcow2'/><source file='/h'/>`), withHeader(blockgraph.SourceFile, blockgraph.FormatQcow2)},
		{"header, qcow2 block", header("type='block'", `<source dev='/h' index='3'/><format type='qcow2'/>`), withHeader(blockgraph.SourceBlock, blockgraph.FormatQcow2)},
		{"header under disk/encryption", disk(`<encryption format='luks'><secret type='passphrase' uuid='` + blocktest.AnyUUID + `'/><header><source file='/h'/></header></encryption>`), withHeader(blockgraph.SourceFile, blockgraph.FormatRaw)},
		{"readonly", disk("<readonly/>"), blocktest.Plain(func(d *blockgraph.Disk) { d.ReadOnly = true })},
		{"serial", disk("<serial> A-1.b_c+ 2</serial>"), blocktest.Plain(func(d *blockgraph.Disk) { d.Serial = " A-1.b_c+ 2" })},
		{"boot order", disk("<boot order='2'/>"), blocktest.Plain(func(d *blockgraph.Disk) { d.BootOrder = 2 })},
		{"user alias", disk("<alias name='ua-data_1'/>"), blocktest.Plain(func(d *blockgraph.Disk) { d.Alias = "ua-data_1" })},
		{"user alias with a dot", disk("<alias name='ua-vm1.data'/>"), blocktest.Plain(func(d *blockgraph.Disk) { d.Alias = "ua-vm1.data" })},
		{"wwn", `<disk><source file='/a'/><target dev='sda'/><wwn>5000c50015ea71ad</wwn></disk>`, blocktest.Plain(func(d *blockgraph.Disk) { d.Target, d.Bus, d.WWN = "sda", blockgraph.BusSCSI, 0x5000c50015ea71ad })},
		{"wwn with 0x", `<disk><source file='/a'/><target dev='sda'/><wwn>0x5000c50015ea71ad</wwn></disk>`,
			blocktest.Plain(func(d *blockgraph.Disk) { d.Target, d.Bus, d.WWN = "sda", blockgraph.BusSCSI, 0x5000c50015ea71ad })},
		{"cdrom is read-only", `<disk device='cdrom'><source file='/a'/><target dev='sda'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Target, d.Bus, d.Device, d.ReadOnly = "sda", blockgraph.BusSCSI, blockgraph.DeviceCDROM, true
		})},
		{"floppy", `<disk device='floppy'><source file='/a'/><target dev='fda'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Target, d.Bus, d.Device = "fda", blockgraph.BusFDC, blockgraph.DeviceFloppy
		})},
		{"bus of vd", target("dev='vdaa'"), onBus("vdaa", blockgraph.BusVirtio)},
		{"bus of sd", target("dev='sdc'"), onBus("sdc", blockgraph.BusSCSI)},
		{"bus of hd", target("dev='hdc'"), onBus("hdc", blockgraph.BusIDE)},
		{"sata", target("dev='sdc' bus='sata'"), onBus("sdc", blockgraph.BusSATA)},
		{"usb", target("dev='sdc' bus='usb'"), onBus("sdc", blockgraph.BusUSB)},
		{"xvd on virtio", target("dev='xvda' bus='virtio'"), onBus("xvda", blockgraph.BusVirtio)},
		{"all of driver", driver("cache='none' io='native' discard='unmap' detect_zeroes='unmap' error_policy='enospace' rerror_policy='report'"),
			tuned(blockgraph.Driver{Cache: "none", IO: "native", Discard: "unmap", DetectZeroes: "unmap", ErrorPolicy: "enospace", ReadErrorPolicy: "report"})},
		{"pci address", disk("<address type='pci' domain='0x0000' bus='0x05' slot='010' function='1'/>"), blocktest.Plain(func(d *blockgraph.Disk) {
			d.Address = &blockgraph.Address{PCI: &blockgraph.PCIAddress{Bus: 5, Slot: 8, Function: 1}}
		})},
		{"pci address, all zero, is none", disk("<address type='pci' domain='0' bus='0' slot='0' function='0'/>"), blocktest.Plain(func(*blockgraph.Disk) {})},
		{"drive address", `<disk><source file='/a'/><target dev='sda'/><address type='drive' controller='1' bus='0' target='2' unit='300'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Target, d.Bus = "sda", blockgraph.BusSCSI
			d.Address = &blockgraph.Address{Drive: &blockgraph.DriveAddress{Controller: 1, Target: 2, Unit: 300}}
		})},
		{"usb address", `<disk><source file='/a'/><target dev='sda' bus='usb'/><address type='usb' bus='1' port='2.1'/></disk>`, blocktest.Plain(func(d *blockgraph.Disk) {
			d.Target, d.Bus = "sda", blockgraph.BusUSB
			d.Address = &blockgraph.Address{USB: &blockgraph.USBAddress{Bus: 1, Port: "2.1"}}
		})},
	}
	for attr, values := range map[string][]string{
		"cache": {"none", "writethrough", "writeback", "directsync", "unsafe"}, "io": {"threads", "io_uring"},
		"discard": {"unmap", "ignore"}, "detect_zeroes": {"off", "on", "unmap"},
		"error_policy": {"stop", "report", "ignore", "enospace"}, "rerror_policy": {"stop", "report", "ignore"},
	} {
		for _, v := range values {
			want := blockgraph.Driver{}
			field := map[string]*string{"cache": &want.Cache, "io": &want.IO, "discard": &want.Discard,
				"detect_zeroes": &want.DetectZeroes, "error_policy": &want.ErrorPolicy, "rerror_policy": &want.ReadErrorPolicy}[attr]
			*field = v
			cases = append(cases, struct {
				name, doc string
				want      *blockgraph.Disk
			}{attr + " " + v, driver(fmt.Sprintf("%s='%s'", attr, v)), tuned(want)})
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.want.FormatAssumed = !regexp.MustCompile(`<driver[^>]* type=`).MatchString(c.doc)
			if got := blocktest.Parse(t, c.doc); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s\ngot  %+v\nwant %+v", c.doc, got, c.want)
			}
		})
	}
}
