package record_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

const diskXML = `<disk type='file' device='disk'>
  <source file='/img/a&amp;b'><encryption format='luks'><secret type='passphrase' usage='it&apos;s'/>
    <header type='file'><source file='/hdr'/></header></encryption></source>
  <target dev='vdb' bus='virtio'/></disk>`

func example(t *testing.T) record.Record {
	t.Helper()
	d, err := record.New([]byte("<?xml version='1.0'?>\n<!-- mine -->\n"+diskXML+"\n"), nil, record.Reading{})
	must.OK(t, err)
	if d.XML != diskXML || d.Target != "vdb" {
		t.Errorf("got %+v", d)
	}
	d.Start, d.Optional, d.AllowSharedHeader = blockgraph.MethodEphemeralHeader, true, true
	d.TrustImageChain, d.AllowGuestHeader, d.AllowPayloadSignature = true, true, true
	d.Attach = record.Attach{Unlock: "qemu", MaxStall: "20s"}
	d.Devices = []blockgraph.Object{{{Name: "driver", Value: "virtio-blk-pci"}, {Name: "serial", Value: `<"&'>`}, {Name: "n", Value: int64(1)}}}
	other, err := record.New([]byte(`<disk type='volume'><source pool='p' volume='v'/><target dev='sda' bus='scsi'/></disk>`),
		blockgraph.Pools{"p": {Name: "p", Type: "dir", Dir: "/pool"}, "q": {Name: "q"}}, record.Reading{TLSDir: "/tls", TLSSecret: "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f", TLSUser: "vm1", IgnoreUnknown: true})
	must.OK(t, err)
	return record.Record{User: "+64055:+994", ColdPlug: true}.With(d).With(other)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	r := example(t)
	text, err := r.XML()
	must.OK(t, err)
	for name, read := range map[string]func() (record.Record, error){
		"alone": func() (record.Record, error) { return record.Parse([]byte(text)) },
		"in a domain": func() (record.Record, error) {
			doc, err := domainxml.Parse([]byte("<domain><metadata><x:a xmlns:x='urn:x'/>" + text + "</metadata></domain>"))
			if err != nil {
				return record.Record{}, err
			}
			return record.FromDomain(doc)
		},
	} {
		got, err := read()
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v (%v)\nwant %+v", name, got, err, r)
		}
	}
	disk, err := r.Disk("vdb").Parsed()
	if err != nil || disk.Header() == nil || disk.Image.Source.Path != "/img/a&b" {
		t.Errorf("got %+v (%v)", disk, err)
	}
	disk, err = r.Disk("sda").Parsed()
	if err != nil || disk.Image.Source.Path != "/pool/v" {
		t.Errorf("got %+v (%v)", disk, err)
	}
}

// TestNamespaces: libvirt puts all metadata into the namespace of the outermost element,
// and removes the namespace again.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	const disk = `<disk type="file"><source file="a:b" x='c/>'/><!-- a:b --><target dev="vdb"></target >t:t</disk>`
	for _, text := range []string{
		`<disks user="+1:+2"><disk target="vdb">` + disk + `<device>{"a":1}</device></disk></disks>`,
		`<l:disks xmlns:l="` + record.Namespace + `" user="+1:+2"><l:disk target="vdb"><l:disk type="file"><l:source file="a:b" x='c/>'/><!-- a:b --><l:target dev="vdb"></l:target >t:t</l:disk>` +
			`<l:device>{"a":1}</l:device></l:disk></l:disks>`,
	} {
		r, err := record.Parse([]byte(text))
		if err != nil || len(r.Disks) != 1 || r.User != "+1:+2" || r.Disks[0].XML != disk || len(r.Disks[0].Devices) != 1 {
			t.Errorf("got %+v (%v)\nof %s", r, err, text)
		}
	}
}

func TestWithAndWithout(t *testing.T) {
	t.Parallel()
	r := example(t)
	changed := r.With(record.Disk{Target: "vdb", XML: "<disk/>"})
	if len(changed.Disks) != 2 || changed.Disk("vdb").XML != "<disk/>" || r.Disk("vdb").XML != diskXML {
		t.Errorf("got %+v and %+v", changed, r)
	}
	less := r.Without("vdb")
	if less.Disk("vdb") != nil || less.Disk("sda") == nil || r.Disk("vdb") == nil || less.Empty() || !(record.Record{}).Empty() {
		t.Errorf("got %+v of %+v", less, r)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	cookie := `<disk type='network'><source protocol='https' name='a'><host name='h'/><cookies><cookie name='a'>b</cookie></cookies></source><target dev='vdb'/></disk>`
	if _, err := record.New([]byte(cookie), nil, record.Reading{}); !errors.Is(err, record.ErrSecretInXML) || strings.Contains(err.Error(), "b</cookie>") {
		t.Errorf("got %v", err)
	}
	var invalid *diskxml.XMLError
	if _, err := record.New([]byte("<disk>"), nil, record.Reading{}); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	in := func(text string) string {
		return `<l:disks xmlns:l="` + record.Namespace + `">` + text + `</l:disks>`
	}
	for text, want := range map[string]string{
		"":                           "no element",
		"<x:disks xmlns:x='urn:x'/>": `the element is a <disks> of "urn:x"`,
		in("<l:disk/>"):              "lacks its target",
		in("<new/>"):                 "<new> is not known",
		in("<l:disk target='vdb'>"):  "syntax error",
		in("<l:disk target='vdb' new='1'><disk/></l:disk>"):                "attribute new of <disk> is not known",
		in("<l:disk target='vdb'><disk/><l:new/></l:disk>"):                "<new> is not known",
		in("<l:disk target='vdb'><disk/><disk/></l:disk>"):                 "two <disk>",
		in("<l:disk target='../x'><disk/></l:disk>"):                       `invalid target "../x"`,
		in("<l:disk target='v&#9;b'><disk/></l:disk>"):                     `invalid target "v\tb"`,
		in("<l:disk target='vdb' start='x'><disk/></l:disk>"):              "unknown start method",
		in("<l:disk target='vdb'><disk/><l:device>[]</l:device></l:disk>"): "no JSON object",
		in(strings.Repeat("<l:disk target='vdb'><disk/></l:disk>", 2)):     "recorded twice",
		strings.Replace(in(""), "xmlns", "x='1' xmlns", 1):                 "attribute x",
	} {
		if _, err := record.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "luksplug's metadata") {
			t.Errorf("%s: got %v, want ...%s...", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`<l:disks xmlns:l="` + record.Namespace + `" user="+0:+0"><l:disk target='vdb'><disk/><l:device>{"a":1}</l:device></l:disk></l:disks>`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := record.Parse([]byte(text))
		if err != nil {
			return
		}
		out, err := r.XML()
		must.OK(t, err)
		again, err := record.Parse([]byte(out))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("got %+v (%v)\nwant %+v", again, err, r)
		}
	})
}

func Example() {
	d, err := record.New([]byte(`<disk type='file'><source file='/a'/><target dev='vdb'/></disk>`), nil, record.Reading{})
	if err != nil {
		panic(err)
	}
	text, err := record.Record{}.With(d).XML()
	if err != nil {
		panic(err)
	}
	fmt.Println(text)
	// Output:
	// <luksplug:disks xmlns:luksplug="https://github.com/luksplug/luksplug/disks/1">
	// <luksplug:disk target="vdb">
	// <disk type='file'><source file='/a'/><target dev='vdb'/></disk>
	// </luksplug:disk>
	// </luksplug:disks>
}

// TestEarlierRecord reads a record as versions before this one wrote it: the members of
// a pool keep their names.
func TestEarlierRecord(t *testing.T) {
	t.Parallel()
	r, err := record.Parse([]byte(`<luksplug:disks xmlns:luksplug="` + record.Namespace + `" user="+0:+0"><luksplug:disk target="sda" start="ephemeral" shared-header="yes" relabel="yes">` +
		`<disk type='volume'><source pool='p' volume='v'/><target dev='sda' bus='scsi'/></disk>` +
		`<luksplug:pool>{"Name":"p","Type":"dir","Folder":"/pool","Host":{},"Target":"","Auth":null,"Volumes":{"v":{"Path":"/pool/v","Kind":"file"}}}</luksplug:pool>` +
		`<luksplug:device>{"driver":"scsi-hd","bus":"scsi0.0"}</luksplug:device>` +
		`<luksplug:owner>{"path":"/pool/v","uid":7,"gid":8}</luksplug:owner></luksplug:disk></luksplug:disks>`))
	must.OK(t, err)
	d := r.Disk("sda")
	if d == nil || d.Start != blockgraph.MethodEphemeralHeader || !d.AllowSharedHeader || !d.Relabel || len(d.Devices) != 1 || len(d.Owners) != 1 || d.Owners[0].UID != 7 {
		t.Fatalf("read: %+v", d)
	}
	if len(d.Pools) != 1 || d.Pools[0].Dir != "/pool" || d.Pools[0].Volumes["v"].Path != "/pool/v" {
		t.Errorf("the pool: %+v", d.Pools)
	}
	if disk, err := d.Parsed(); err != nil || disk.Image.Source.Path != "/pool/v" {
		t.Errorf("the disk: %+v, %v", disk, err)
	}
}

// TestTLSSecret: the secret of a TLS client is named by its UUID or its usage, also in a record.
func TestTLSSecret(t *testing.T) {
	t.Parallel()
	const nbd = `<disk type='network'><source protocol='nbd' name='a' tls='yes'><host name='nbd'/></source><target dev='vdb' bus='virtio'/></disk>`
	for name, want := range map[string]string{"0a81f5b2-8403-4b23-88d6-21ccc2f80d6f": "uuid 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f", "tls:client key": `usage "client key"`, "tls:": "", "client": ""} {
		d, err := record.New([]byte(nbd), nil, record.Reading{TLSSecret: name})
		if want == "" {
			if err == nil {
				_, err = d.Parsed()
			}
			if err == nil {
				t.Errorf("%q is taken", name)
			}
			continue
		}
		must.OK(t, err)
		text, err := record.Record{}.With(d).XML()
		must.OK(t, err)
		r, err := record.Parse([]byte(text))
		must.OK(t, err)
		disk, err := r.Disk("vdb").Parsed()
		must.OK(t, err)
		if key := disk.Image.Source.TLS().Key; key == nil || key.Type != secrets.TLS || key.String() != want {
			t.Errorf("%q: %v", name, key)
		}
	}
}

// TestRecoveryIsRecorded: a recovery that is not in the XML is recorded, and applied again.
func TestRecoveryIsRecorded(t *testing.T) {
	t.Parallel()
	d, err := record.New([]byte(diskXML), nil, record.Reading{Recovery: blockgraph.RecoveryReadOnly})
	must.OK(t, err)
	text := must.Get(record.Record{}.With(d).XML())(t)
	got := must.Get(record.Parse([]byte(text)))(t).Disk("vdb")
	disk, err := got.Parsed()
	if err != nil || !disk.ReadOnly || disk.Recovery() != blockgraph.RecoveryReadOnly || got.XML != diskXML || !strings.Contains(strings.Join(got.Options(), " "), "recover=read-only") {
		t.Errorf("got %+v of %s (%v)", disk, text, err)
	}
	if _, err := record.New([]byte(`<disk><source file='/a'/><target dev='vdb'/></disk>`), nil, record.Reading{Recovery: blockgraph.RecoveryReadOnly}); err == nil {
		t.Error("a disk without a header is recovered")
	}
	got.Recovery = "so"
	if _, err := got.Parsed(); err == nil {
		t.Error("an unknown recovery is read")
	}
}
