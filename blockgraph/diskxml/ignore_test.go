package diskxml_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

func TestIgnoreUnknown(t *testing.T) {
	t.Parallel()
	lenient := diskxml.ParseOptions{IgnoreUnknown: true}
	doc := `<disk type='file' colour='red'>
  <driver name='qemu' type='raw' turbo='on' cache='none'><afterburner level='3'/></driver>
  <source file='/a' x:flavour='sweet' xmlns:x='urn:x'/>
  <target dev='vdb' bus='virtio'/>
  <hologram><serial>wrong</serial></hologram>
  <serial>right</serial>
</disk>`
	d, err := lenient.ParseDisk([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if d.Serial != "right" || d.Driver.Cache != "none" {
		t.Errorf("read as %+v", d)
	}
	all := strings.Join(d.Warnings(), "\n")
	for _, want := range []string{"line 1: the attribute <disk colour=...>", "line 2: the attribute <driver turbo=...>",
		"line 2: the element <afterburner> in <driver>", "line 3: the attribute <source flavour=...>", "line 5: the element <hologram>"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning says %q:\n%s", want, all)
		}
	}
	if len(d.Warnings()) != 5 {
		t.Errorf("%d warnings:\n%s", len(d.Warnings()), all)
	}
	// A document without unknown names is read unchanged.
	plainDoc := []byte(blocktest.DiskAt("dev='vdb'", ""))
	strict, err := diskxml.ParseDisk(plainDoc)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := lenient.ParseDisk(plainDoc); err != nil || !reflect.DeepEqual(got, strict) {
		t.Errorf("got %+v %v, want %+v", got, err, strict)
	}
}

// TestIgnoreUnknownFailsClosed: possible typos and possible encryption are
// refused with any options.
func TestIgnoreUnknownFailsClosed(t *testing.T) {
	t.Parallel()
	encryption := "<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"
	for name, inner := range map[string]string{
		"letters swapped":       strings.ReplaceAll(encryption, "ypt", "pyt"),
		"letter missing":        strings.ReplaceAll(encryption, "encryption", "encrytion"),
		"capital":               strings.ReplaceAll(encryption, "encryption", "Encryption"),
		"misspelt header":       strings.Replace(encryption, "</encryption>", "<haeder><source file='/h'/></haeder></encryption>", 1),
		"unknown in encryption": strings.Replace(encryption, "format=", "strength='11' format=", 1),
		"two letters wrong":     strings.ReplaceAll(encryption, "encryption", "encrpytoin"),
		"header outside":        "<header><source file='/h'/></header>",
		"luks":                  "<luks><secret type='passphrase' usage='x'/></luks>",
		"misspelt attribute":    "<driver cahce='none'/>",
		"not supported":         "<backenddomain name='x'/>",
		"odd value":             "<driver cache='x'/>",
		"namespaced element":    "<x:serial xmlns:x='urn:x'>1</x:serial>",
	} {
		if d, err := (diskxml.ParseOptions{IgnoreUnknown: true}).ParseDisk([]byte(blocktest.DiskAt("dev='vdb'", inner))); err == nil {
			t.Errorf("%s: accepted as %+v", name, d)
		}
	}
}
