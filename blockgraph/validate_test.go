package blockgraph_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/secrets"
)

// A Disk that a program fills in is checked like one from XML.
func TestValidate(t *testing.T) {
	t.Parallel()
	ref := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse(blocktest.AnyUUID)}
	header := func(h blockgraph.Image) func(*blockgraph.Disk) {
		return func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{ref}, Header: &h}
		}
	}
	for _, c := range []struct {
		name    string
		change  func(*blockgraph.Disk)
		element string
	}{
		{"no target", func(d *blockgraph.Disk) { d.Target = "" }, "disk/target@dev"},
		{"no bus", func(d *blockgraph.Disk) { d.Bus = "" }, "disk/target@bus"},
		{"no device", func(d *blockgraph.Disk) { d.Device = "" }, "disk@device"},
		{"lun", func(d *blockgraph.Disk) { d.Device = "lun" }, "disk@type"},
		{"tape", func(d *blockgraph.Disk) { d.Device = "tape" }, "disk@device"},
		{"no format", func(d *blockgraph.Disk) { d.Image.Format = "" }, "disk/source"},
		{"no kind", func(d *blockgraph.Disk) { d.Image.Source.Kind = "" }, "disk/source"},
		{"no path", func(d *blockgraph.Disk) { d.Image.Source.Path = "" }, "disk/source"},
		{"NUL", func(d *blockgraph.Disk) { d.Image.Source.Path = "/a\x00b" }, "disk/source"},
		{"not UTF-8", func(d *blockgraph.Disk) { d.Image.Source.Path = "/a\xff" }, "disk/source"},
		{"no secret", func(d *blockgraph.Disk) { d.Image.Encryption = &blockgraph.Encryption{} }, "disk/source/encryption"},
		{"secret without name", func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{{Type: secrets.Passphrase}}}
		}, "disk/source/encryption/secret"},
		{"header without path", header(blockgraph.Image{Format: blockgraph.FormatRaw, Source: blockgraph.Source{Kind: blockgraph.SourceFile}}), "disk/source/encryption/header/source"},
		{"header without format", header(blockgraph.Image{Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: "/h"}}), "disk/source/encryption/header/source"},
		{"encrypted header", header(blockgraph.Image{Format: blockgraph.FormatRaw, Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: "/h"},
			Encryption: &blockgraph.Encryption{Secrets: []secrets.Reference{ref}}}), "disk/source/encryption/header/source/encryption"},
		{"alias of libvirt's", func(d *blockgraph.Disk) { d.Alias = "virtio-disk0" }, "disk/alias@name"},
		{"writable cdrom", func(d *blockgraph.Disk) { d.Bus, d.Device = blockgraph.BusSCSI, blockgraph.DeviceCDROM }, "disk/readonly"},
		{"empty address", func(d *blockgraph.Disk) { d.Address = &blockgraph.Address{} }, "disk/address@type"},
		{"scsi target", func(d *blockgraph.Disk) {
			d.Bus, d.Address = blockgraph.BusSCSI, &blockgraph.Address{Drive: &blockgraph.DriveAddress{Target: 256}}
		}, "disk/address@target"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := blocktest.Plain(c.change)
			err := d.Validate()
			var invalid *blockgraph.InvalidError
			var unsupported *blockgraph.UnsupportedError
			switch {
			case errors.As(err, &invalid) && invalid.Element == c.element:
			case errors.As(err, &unsupported) && unsupported.Element == c.element:
			default:
				t.Errorf("got %v, want an error about %s", err, c.element)
			}
			if _, built := blockgraph.Build(d, blockgraph.Machine{}, blockgraph.Unlock{}); built == nil {
				t.Error("Build accepts it")
			}
		})
	}
	if err := blocktest.Plain(func(*blockgraph.Disk) {}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"disk XML: bad": &diskxml.XMLError{Reason: "bad"},
		"disk XML line 3: <driver cache=...>: bad":    &diskxml.XMLError{Element: "disk/driver@cache", Line: 3, Reason: "bad"},
		"disk XML: <secret> in <encryption>: bad":     &blockgraph.InvalidError{Element: "disk/encryption/secret", Reason: "bad"},
		"domain XML: <type machine=...> in <os>: bad": &diskxml.XMLError{Element: "domain/os/type@machine", Reason: "bad"},
		"pool XML: <pool>: bad":                       &diskxml.XMLError{Element: "pool", Reason: "bad"},
		"unsupported: no":                             &blockgraph.UnsupportedError{Reason: "no"},
		"unsupported: <auth>: no":                     &blockgraph.UnsupportedError{Element: "disk/auth", Reason: "no"},
		"disk vdb: full":                              &blockgraph.PlacementError{Target: "vdb", Reason: "full"},
	} {
		if err.Error() != want {
			t.Errorf("got  %q\nwant %q", err, want)
		}
	}
}

func TestSecretsAndHeaderOfPlainDisk(t *testing.T) {
	t.Parallel()
	d := blocktest.Parse(t, "<disk><source file='/a'/><target dev='vdb'/></disk>")
	if d.Secrets() != nil || d.Header() != nil {
		t.Errorf("a disk without encryption has secrets %v and header %v", d.Secrets(), d.Header())
	}
}

func TestCheckHotplug(t *testing.T) {
	t.Parallel()
	for bus, want := range map[blockgraph.Bus]bool{
		blockgraph.BusVirtio: true, blockgraph.BusSCSI: true, blockgraph.BusUSB: true,
		blockgraph.BusIDE: false, blockgraph.BusSATA: false, blockgraph.BusFDC: false,
	} {
		err := (&blockgraph.Disk{Bus: bus}).CheckHotplug()
		if (err == nil) != want {
			t.Errorf("%s: %v", bus, err)
		}
		if err != nil && !strings.Contains(err.Error(), "disk bus '"+string(bus)+"' cannot be hotplugged") {
			t.Errorf("%s: not libvirt's words: %v", bus, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		serial string
		bus    blockgraph.Bus
		want   []string
	}{
		{"short", blockgraph.BusVirtio, nil},
		{strings.Repeat("x", 20), blockgraph.BusVirtio, nil},
		{strings.Repeat("x", 21), blockgraph.BusVirtio, []string{"the first 20"}},
		{strings.Repeat("x", 21), blockgraph.BusSCSI, nil},
		{"a b", blockgraph.BusSCSI, []string{"backslashes"}},
		// 19 characters, and 21 with the backslashes.
		{"1 2 " + strings.Repeat("x", 15), blockgraph.BusVirtio, []string{"21 characters", "backslashes"}},
	} {
		got := (&blockgraph.Disk{Target: "vdb", Bus: c.bus, Serial: c.serial}).Warnings()
		if len(got) != len(c.want) {
			t.Errorf("%q on %s: %q, want %d warnings", c.serial, c.bus, got, len(c.want))
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%q on %s: %q lacks %q", c.serial, c.bus, got[i], c.want[i])
			}
		}
	}
}
