package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// TestPlainPayload: a payload under a detached header is refused if it looks like plain data,
// at its beginning, at its end, or where the header has the encrypted data begin.
func TestPlainPayload(t *testing.T) {
	t.Parallel()
	must.Have(t, "wipefs")
	disk, err := diskxml.ParseDisk([]byte(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/image'><encryption format='luks'><secret type='passphrase' usage='test'/>` +
		`<header type='file'><source file='/h'/></header></encryption></source><target dev='vdb' bus='virtio'/></disk>`))
	must.OK(t, err)
	const size, offset = 9 << 20, 4 << 20
	random := rand.NewChaCha8([32]byte{1})
	put := func(parts ...any) []byte { // places and texts
		b := make([]byte, size)
		_, _ = random.Read(b) // it never fails
		for i := 0; i < len(parts); i += 2 {
			copy(b[parts[i].(int):], parts[i+1].(string))
		}
		return b
	}
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	mbr := func(at int) []byte {
		return put(at, zeros(512), at+450, "\x83\x00\x00\x00\x01\x00\x00\x00\x10", at+510, "\x55\xaa")
	}
	raid := make([]byte, 256)
	const last = size - 8<<10
	copy(raid, "\xfc\x4e\x2b\xa9\x01")
	binary.LittleEndian.PutUint64(raid[144:], last/512)
	made := func(program string, args ...string) []byte {
		must.Have(t, program)
		path := must.File(t, make([]byte, size))
		must.Run(t, "", program, append(args, path)...)
		return must.Get(os.ReadFile(path))(t)
	}
	h := &luks.Header{Version: 1, LUKS1: &luks.LUKS1{PayloadSectors: offset / luks.SectorSize}}
	for name, c := range map[string]struct {
		content []byte
		header  *luks.Header
		says    string // "" for not refused
	}{
		"ciphertext":              {put(), h, ""},
		"zeros":                   {make([]byte, size), h, ""},
		"one byte":                {[]byte{1}, h, ""},
		"empty":                   {nil, nil, ""},
		"partitions":              {mbr(0), nil, "dos at byte 510"},
		"partitions after offset": {mbr(offset), h, "dos at byte 4194814"},
		"a place that is not h's": {mbr(offset), nil, ""},
		"swap":                    {put(0, zeros(4096), 1024, "\x01\x00\x00\x00\xff", 4086, "SWAPSPACE2"), nil, "swap at byte 4086"},
		"squashfs":                {put(0, "hsqs", 28, "\x04\x00\x00\x00"), nil, "squashfs at byte 0"},
		"iso9660":                 {put(32<<10, "\x01CD001\x01"), nil, "iso9660"},
		"RAID at the end":         {put(last, string(raid)), nil, "linux_raid_member"},
		"LUKS, which others find": {put(0x4000, "SKUL\xba\xbe\x00\x02"), nil, ""},
		"ext4":                    {made("mkfs.ext4", "-q"), nil, "ext4 at byte 1080"},
		"swap by mkswap":          {made("mkswap", "-q"), nil, "swap"},
	} {
		l := &layerCheck{Candidate: &Candidate{Disk: disk, Searches: &image.Searches{}}, disk: disk}
		r := memory{bytes.NewReader(c.content)}
		_, err := l.plainPayload(t.Context(), r, c.header)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, outcome.ErrPayloadSignature) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
		l.Spec = spec.Spec{AllowPayloadSignature: true}
		warnings, err := l.plainPayload(t.Context(), r, c.header)
		if err != nil || (len(warnings) == 1 && strings.Contains(warnings[0], c.says)) != (c.says != "") {
			t.Errorf("%s, allowed: %v, %v", name, warnings, err)
		}
	}
	l := &layerCheck{Candidate: &Candidate{Disk: disk, Searches: &image.Searches{}}, disk: disk}
	if _, err := l.plainPayload(t.Context(), failing{memory{bytes.NewReader(make([]byte, size))}}, nil); !errors.Is(err, errRead) {
		t.Errorf("a payload that cannot be read: %v", err)
	}
}
