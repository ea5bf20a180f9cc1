package image_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

// TestReferencesAreFound compares what images name with what qemu-img was told to name.
func TestReferencesAreFound(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create := func(name string, args ...string) string {
		must.Run(t, "", "qemu-img", append(append([]string{"create", "-q"}, args...), at(name), "1M")...)
		return at(name)
	}
	base, vmdk := create("base", "-f", "raw"), create("base.vmdk", "-f", "vmdk")
	backing := func(format string) []image.Reference {
		return []image.Reference{{Role: image.Backing, Name: base, Format: format}}
	}
	extent := func(name, format string) []image.Reference {
		return []image.Reference{{Role: image.Extent, Name: name, Format: format}}
	}
	two, nothing := at("two"), at("nothing")
	must.OK(t, os.WriteFile(nothing, []byte("# Disk DescriptorFile\n"), 0o600),
		os.WriteFile(two, []byte("# Disk DescriptorFile\r\nparentFileNameHint=\"p.vmdk\"\r\nRW 8 VMFS \"a b-flat.vmdk\"\r\n  RDONLY 8\tSPARSE \"two.vmdk\"\nRW 8 ZERO\n"), 0o600))
	for name, c := range map[string]struct {
		path   string
		format image.Format
		want   []image.Reference
	}{
		"qcow2":             {create("a", "-f", "qcow2"), "qcow2", nil},
		"qcow2 backing":     {create("b", "-f", "qcow2", "-b", base, "-F", "raw"), "qcow2", backing("raw")},
		"qcow2 data":        {create("c", "-f", "qcow2", "-o", "data_file="+at("c.data")), "qcow2", []image.Reference{{Role: image.Data, Name: at("c.data"), Format: "raw"}}},
		"qcow2 of old":      {create("d", "-f", "qcow2", "-o", "compat=0.10", "-b", base, "-F", "raw"), "qcow2", backing("raw")},
		"qcow":              {create("e", "-f", "qcow"), "qcow", nil},
		"qcow backing":      {create("f", "-f", "qcow", "-u", "-b", base, "-F", "raw"), "qcow", backing("")},
		"qed":               {create("g", "-f", "qed"), "qed", nil},
		"qed backing":       {create("h", "-f", "qed", "-b", base, "-F", "raw"), "qed", backing("")},
		"vmdk":              {vmdk, "vmdk", nil},
		"vmdk backing":      {create("i", "-f", "vmdk", "-b", vmdk, "-F", "vmdk"), "vmdk", []image.Reference{{Role: image.Backing, Name: vmdk, Format: "vmdk"}}},
		"vmdk flat":         {create("j.vmdk", "-f", "vmdk", "-o", "subformat=monolithicFlat"), "vmdk", extent("j-flat.vmdk", "raw")},
		"vmdk split":        {create("k.vmdk", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"), "vmdk", extent("k-s001.vmdk", "vmdk")},
		"vmdk of two":       {two, "vmdk", append(extent("a b-flat.vmdk", "raw"), append(extent("two.vmdk", "vmdk"), image.Reference{Role: image.Backing, Name: "p.vmdk", Format: "vmdk"})...)},
		"vmdk of nothing":   {nothing, "vmdk", []image.Reference{{Role: image.Extent}}},
		"vmdk with footers": {create("l.vmdk", "-f", "vmdk", "-o", "subformat=streamOptimized"), "vmdk", nil},
		"raw":               {base, "raw", nil},
	} {
		g := must.Get(image.OpenGuest(c.path, image.Raw, ""))(t)
		got, err := image.References(g, c.format)
		must.OK(t, g.Close())
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

// TestReferenceMeansWhatQEMUReads: a name is a path exactly if it is one to QEMU.
func TestReferenceMeansWhatQEMUReads(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"/srv/base": "/srv/base", "base": "/img/base", "../base": "/base", "file:/srv/base": "/srv/base", "./a:b": "/img/a:b", "/a:b": "/a:b", "base\x00tail": "/img/base",
		"nbd:localhost:1": "", "json:{}": "", "nbd://h/x": "", "": "", "\x00": "", "a:b": "",
	} {
		got, ok := image.Reference{Name: name}.Path("/img/top")
		if got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t", name, got, ok)
		}
	}
}

// TestGuestReadsNoFileThatOnlyTheImageNames: neither a data file nor a backing file is
// opened because an image names it.
func TestGuestReadsNoFileThatOnlyTheImageNames(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io")
	data, path := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "image")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+data, path, "1M")
	must.Run(t, "", "qemu-io", "-c", "write -P 65 0 64k", path)
	read := func(named string) (string, error) {
		g := must.Get(image.OpenGuest(path, image.Qcow2, named))(t)
		defer func() { _ = g.Close() }()
		b := make([]byte, 4)
		_, err := g.ReadAt(b, 0)
		return string(b), err
	}
	if _, err := read(""); err == nil || !strings.Contains(err.Error(), "external data file") {
		t.Errorf("read from a file that only the image names: %v", err)
	}
	if got, err := read(data); err != nil || got != "AAAA" {
		t.Errorf("read %q from the named file, %v", got, err)
	}
	must.OK(t, os.Remove(data))
	g := must.Get(image.OpenGuest(path, image.Qcow2, ""))(t) // it need not exist
	must.OK(t, g.Close())
}
