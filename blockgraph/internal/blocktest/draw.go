package blocktest

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

var busKinds = map[blockgraph.Bus]string{
	blockgraph.BusVirtio: "vd", blockgraph.BusSCSI: "sd", blockgraph.BusUSB: "sd",
	blockgraph.BusIDE: "hd", blockgraph.BusSATA: "sd", blockgraph.BusFDC: "fd",
}

// AnyDisk draws a valid disk, as a program could fill it in.
func AnyDisk(t *rapid.T) *blockgraph.Disk {
	word := func(name string, words ...string) string {
		return rapid.SampledFrom(append([]string{""}, words...)).Draw(t, name)
	}
	d := &blockgraph.Disk{
		Bus: rapid.SampledFrom([]blockgraph.Bus{blockgraph.BusVirtio, blockgraph.BusSCSI, blockgraph.BusUSB,
			blockgraph.BusIDE, blockgraph.BusSATA, blockgraph.BusFDC}).Draw(t, "bus"),
		Device:    blockgraph.DeviceDisk,
		ReadOnly:  rapid.Bool().Draw(t, "readonly"),
		Image:     anyImage(t, "payload"),
		BootOrder: rapid.UintRange(0, 9).Draw(t, "boot"),
		Driver: blockgraph.Driver{
			Cache: word("cache", "none", "writethrough", "writeback", "directsync", "unsafe"), IO: word("io", "threads", "io_uring"),
			Discard: word("discard", "unmap", "ignore"), DetectZeroes: word("zeroes", "off", "on", "unmap"),
			ErrorPolicy: word("werror", "stop", "report", "ignore", "enospace"), ReadErrorPolicy: word("rerror", "stop", "report", "ignore"),
		},
		Serial: rapid.StringMatching(`[A-Za-z0-9_.+ -]{0,30}`).Draw(t, "serial"),
	}
	d.Target = busKinds[d.Bus] + rapid.StringMatching(map[bool]string{true: "[a-b]", false: "[a-z]{1,3}"}[d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusFDC]).Draw(t, "target")
	switch {
	case d.Bus == blockgraph.BusFDC:
		d.Device, d.Serial, d.BootOrder = blockgraph.DeviceFloppy, "", 0
		d.Driver.ErrorPolicy, d.Driver.ReadErrorPolicy = "", ""
	case d.Bus != blockgraph.BusVirtio && rapid.Bool().Draw(t, "cdrom"):
		d.Device, d.ReadOnly = blockgraph.DeviceCDROM, true
	case d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusSATA:
		d.ReadOnly = false
	}
	if d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusSCSI {
		d.WWN = rapid.Uint64().Draw(t, "wwn")
	}
	if rapid.Bool().Draw(t, "alias") {
		d.Alias = "ua-" + rapid.StringMatching(`[A-Za-z0-9_.-]{1,20}`).Draw(t, "alias name")
	}
	anyTuning(t, d)
	if !d.Shareable && rapid.Bool().Draw(t, "encrypted") {
		d.Image.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{AnySecret(t)}}
		if rapid.Bool().Draw(t, "detached") {
			h := anyImage(t, "header")
			d.Image.Encryption.Header = &h
		}
	}
	return d
}

// anyTuning draws the settings that the disk's bus supports.
func anyTuning(t *rapid.T, d *blockgraph.Disk) {
	toggle := func(name string) blockgraph.Switch {
		return rapid.SampledFrom([]blockgraph.Switch{"", blockgraph.On, blockgraph.Off}).Draw(t, name)
	}
	number := func(name string, most uint) uint { return rapid.UintRange(0, most).Draw(t, name) }
	text := func(name, pattern string) string { return rapid.StringMatching(pattern).Draw(t, name) }
	d.Shareable = d.Image.Format == blockgraph.FormatRaw && rapid.Bool().Draw(t, "shareable")
	d.Tuning.BlockIO = blockgraph.BlockIO{Logical: number("logical", 4096), Physical: number("physical", 4096), DiscardGranularity: number("granularity", 1<<20)}
	switch d.Bus {
	case blockgraph.BusVirtio:
		d.Model = rapid.SampledFrom([]blockgraph.Model{"", blockgraph.ModelVirtio, blockgraph.ModelNonTransitional}).Draw(t, "model")
		v := &d.Driver
		v.Queues, v.QueueSize = number("queues", 8), number("queue size", 1024)
		v.IOEventFD, v.EventIdx, v.IOMMU = toggle("ioeventfd"), toggle("event_idx"), toggle("iommu")
		v.ATS, v.Packed, v.PagePerVQ = toggle("ats"), toggle("packed"), toggle("page_per_vq")
	case blockgraph.BusSCSI:
		d.Tuning.Vendor, d.Tuning.Product = text("vendor", "[ -~]{0,8}"), text("product", "[ -~]{0,16}")
		if d.Device == blockgraph.DeviceDisk {
			d.Tuning.RotationRate, d.Tuning.Removable, d.Tuning.DPOFUA = number("rotation", 65535), toggle("removable"), toggle("dpofua")
		}
	case blockgraph.BusUSB:
		d.Tuning.Removable = toggle("removable")
	case blockgraph.BusIDE, blockgraph.BusSATA:
		d.Tuning.Product = text("model", "[ -~]{0,40}")
	}
	if rapid.Bool().Draw(t, "limited") {
		limit := func(name string) blockgraph.Limit {
			return blockgraph.Limit{PerSecond: rapid.Uint64Range(0, 1e15).Draw(t, name), Max: rapid.Uint64Range(0, 1e15).Draw(t, name+" burst"), MaxLength: rapid.Uint64Range(0, 99).Draw(t, name+" length")}
		}
		d.IOTune = &blockgraph.IOTune{Bytes: blockgraph.Limits{Total: limit("bytes")}, Requests: blockgraph.Limits{Read: limit("reads"), Write: limit("writes")}}
	}
}

func anyImage(t *rapid.T, what string) blockgraph.Image {
	return blockgraph.Image{
		Format: rapid.SampledFrom([]blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2}).Draw(t, what+" format"),
		Source: blockgraph.Source{
			Kind: rapid.SampledFrom([]blockgraph.SourceKind{blockgraph.SourceFile, blockgraph.SourceBlock}).Draw(t, what+" kind"),
			// The directory keeps header and payload apart.
			Path: "/" + what + "/" + rapid.StringMatching(`[^\x00]{1,20}`).Draw(t, what+" path"),
		},
		Terminated: rapid.Bool().Draw(t, what+" terminated"),
	}
}

func AnySecret(t *rapid.T) secrets.Reference {
	r := secrets.Reference{Type: secrets.Passphrase}
	if rapid.Bool().Draw(t, "by usage") {
		r.Usage = rapid.StringMatching(`[^\x00]{1,20}`).Draw(t, "usage")
		return r
	}
	r.UUID = uuid.UUID(rapid.SliceOfN(rapid.ByteRange(1, 255), 16, 16).Draw(t, "uuid"))
	return r
}

func AnyMachine(t *rapid.T) blockgraph.Machine {
	m := blockgraph.Machine{Type: rapid.SampledFrom([]string{"", "q35", "pc", "pc-q35-9.0", "pc-i440fx-9.0"}).Draw(t, "machine"), USB: rapid.Bool().Draw(t, "usb")}
	for i := range rapid.IntRange(0, 4).Draw(t, "ports") {
		m.Ports = append(m.Ports, blockgraph.Port{Bus: fmt.Sprintf("pci.%d", i), Taken: rapid.Bool().Draw(t, "taken")})
	}
	if rapid.Bool().Draw(t, "scsi") {
		m.SCSI = []blockgraph.SCSIController{{ID: "scsi0"}}
	}
	return m
}

// AnyPlan draws a disk and a VM that has room for it.
func AnyPlan(t *rapid.T) (*blockgraph.Disk, blockgraph.Machine, *blockgraph.Plan) {
	d, m := AnyDisk(t), AnyMachine(t)
	g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
	var full *blockgraph.PlacementError
	var unsupported *blockgraph.UnsupportedError
	if errors.As(err, &full) || errors.As(err, &unsupported) && d.Bus == blockgraph.BusIDE {
		t.Skip("no room")
	}
	if err != nil {
		t.Fatalf("%v: %+v", err, d)
	}
	return d, m, g.Plan()
}
