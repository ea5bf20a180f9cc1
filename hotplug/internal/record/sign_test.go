package record_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
)

const (
	vm1 = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	vm2 = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
)

// signer returns a signer with a new key.
func signer(t *testing.T, uuid string) record.Signer {
	t.Helper()
	key, made, err := record.MakeKey(filepath.Join(t.TempDir(), "etc", "record.key"))
	if err != nil || !made {
		t.Fatalf("made %t, %v", made, err)
	}
	return record.Signer{Key: key, UUID: uuid}
}

// TestSignature: a record verifies with the key and for the domain that it was signed for,
// and not after any change.
func TestSignature(t *testing.T) {
	t.Parallel()
	s := signer(t, vm1)
	r := must.Get(s.Sign(example(t)))(t)
	if err := s.Verify(r); err != nil || r.MAC == "" {
		t.Fatalf("got %v of %+v", err, r)
	}
	if err := (record.Signer{Key: s.Key, UUID: strings.ToUpper(vm1)}).Verify(r); err != nil {
		t.Errorf("another spelling of the UUID: %v", err)
	}
	parsed := must.Get(record.Parse([]byte(must.Get(r.XML())(t))))(t)
	if err := s.Verify(parsed); err != nil {
		t.Errorf("written and read: %v", err)
	}
	for name, c := range map[string]struct {
		signer record.Signer
		record record.Record
		want   error
	}{
		"unsigned":         {s, example(t), record.ErrUnsigned},
		"another domain":   {record.Signer{Key: s.Key, UUID: vm2}, r, record.ErrSignature},
		"another key":      {signer(t, vm1), r, record.ErrSignature},
		"no key":           {record.Signer{UUID: vm1}, r, record.ErrNoKey},
		"no signature":     {s, changed(r, func(r *record.Record) { r.MAC = "%" }), record.ErrSignature},
		"a part of one":    {s, changed(r, func(r *record.Record) { r.MAC = r.MAC[:8] }), record.ErrSignature},
		"a disk is gone":   {s, changed(r, func(r *record.Record) { r.Disks = r.Disks[:1] }), record.ErrSignature},
		"another order":    {s, changed(r, func(r *record.Record) { r.Disks[0], r.Disks[1] = r.Disks[1], r.Disks[0] }), record.ErrSignature},
		"a changed record": {s, r.Without("vdb"), record.ErrUnsigned},
	} {
		if err := c.signer.Verify(c.record); !errors.Is(err, c.want) || !errors.Is(err, record.ErrUnverified) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if err := s.Verify(record.Record{User: "+0:+0"}); err != nil {
		t.Errorf("an empty record: %v", err)
	}
	if unsigned := must.Get(record.Signer{UUID: vm1}.Sign(r))(t); unsigned.MAC != "" {
		t.Error("signed without a key")
	}
}

// changed returns a changed copy that keeps its signature.
func changed(r record.Record, change func(*record.Record)) record.Record {
	r.Disks = append([]record.Disk(nil), r.Disks...)
	change(&r)
	return r
}

// TestSignatureCoversEverything changes each field of a record, and each part of the disk's
// XML, in turn. A field that a later version adds is found by reflection.
func TestSignatureCoversEverything(t *testing.T) {
	t.Parallel()
	s := signer(t, vm1)
	r := must.Get(s.Sign(example(t)))(t)
	count := 0
	wrong := func(name string, r record.Record) {
		t.Helper()
		count++
		if err := s.Verify(r); !errors.Is(err, record.ErrUnverified) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	each(reflect.TypeFor[record.Record](), func(name string, index []int) {
		if name != "MAC" && name != "Disks" {
			wrong(name, changed(r, func(r *record.Record) { alter(reflect.ValueOf(r).Elem().FieldByIndex(index)) }))
		}
	})
	for i := range r.Disks {
		each(reflect.TypeFor[record.Disk](), func(name string, index []int) {
			if name == "XML" {
				return // below
			}
			wrong(name, changed(r, func(r *record.Record) { alter(reflect.ValueOf(&r.Disks[i]).Elem().FieldByIndex(index)) }))
		})
	}
	for _, c := range [][2]string{
		{"type='file'", "type='block'"}, {"/img/a&amp;b", "/etc/shadow"}, {"/hdr", "/hdr2"}, {"usage='it&apos;s'", "uuid='" + vm2 + "'"},
		{"</disk>", "<readonly/></disk>"}, {" bus='virtio'", ""}, {"<target", "<target x='1'"}, {"<disk ", "<disk xmlns='urn:x' "},
		{"<header type='file'>", "<header type='file'>text"},
	} {
		text := strings.Replace(r.Disks[0].XML, c[0], c[1], 1)
		if text == r.Disks[0].XML {
			t.Fatalf("no %s", c[0])
		}
		wrong(c[1], changed(r, func(r *record.Record) { r.Disks[0].XML = text }))
	}
	t.Logf("%d changes", count)
}

// each calls f with every field of a structure, and of those that it embeds.
func each(structure reflect.Type, f func(name string, index []int)) {
	for _, field := range reflect.VisibleFields(structure) {
		if !field.Anonymous {
			f(field.Name, field.Index)
		}
	}
}

// alter changes a value.
func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		one := reflect.New(v.Type().Elem()).Elem()
		if v.Type() == reflect.TypeFor[[]blockgraph.Object]() {
			one = reflect.ValueOf(blockgraph.Object{{Name: "driver", Value: "vfio-pci"}})
		}
		v.Set(reflect.Append(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, 4), v), one))
	default:
		panic("a kind of field that this test does not know: " + v.Type().String())
	}
}

// TestSignatureDoesNotDependOnTheLayout: a signature is valid for every text that libvirt
// makes of an element. An integration test has libvirt make them.
func TestSignatureDoesNotDependOnTheLayout(t *testing.T) {
	t.Parallel()
	s := signer(t, vm1)
	const disk = "<disk type='file'>\n<source\tfile='/a&#9;b'\nstartupPolicy='optional'></source><!-- x --><target dev='vdb' bus='virtio'/><serial> a </serial></disk>"
	d := must.Get(record.New([]byte(disk), nil, record.Reading{}))(t)
	d.Devices = []blockgraph.Object{{{Name: "driver", Value: "virtio-blk-pci"}, {Name: "serial", Value: "<a>"}}}
	r := must.Get(s.Sign(record.Record{User: "+1:+2"}.With(d)))(t)
	const device = `{&quot;driver&quot;:"virtio-blk-pci", "serial":"&lt;a&gt;"}`
	for name, text := range map[string]string{
		"as libvirt prints it": `<l:disks xmlns:l="` + record.Namespace + `" mac="` + r.MAC + `" user="+1:+2">
  <l:disk target="vdb">
    <l:disk type="file">
      <l:source startupPolicy="optional" file="/a&#x9;b"/>
      <l:target bus="virtio" dev="vdb"/><l:serial> a </l:serial>
    </l:disk>
    <l:device>` + device + `</l:device></l:disk></l:disks>`,
		"without its namespace": `<disks user='+1:+2' mac='` + r.MAC + `'><disk target='vdb'>` + disk + `<device>` + device + `</device></disk></disks>`,
	} {
		got, err := record.Parse([]byte(text))
		if err == nil {
			err = s.Verify(got)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range [][2]string{{" a ", "a"}, {" a ", "  a "}, {"/a&#9;b", "/a b"}} {
		text := strings.Replace(disk, c[0], c[1], 1)
		got := must.Get(record.Parse([]byte(`<disks user='+1:+2' mac='` + r.MAC + `'><disk target='vdb'>` + text + `<device>` + device + `</device></disk></disks>`)))(t)
		if err := s.Verify(got); !errors.Is(err, record.ErrSignature) {
			t.Errorf("%q for %q: got %v", c[1], c[0], err)
		}
	}
}

// TestKeyFile: a key that others could have written or read is refused, and so is a damaged
// one.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  error
	}{
		"as it was made":        {func(string) error { return nil }, nil},
		"readable by a group":   {func(path string) error { return os.Chmod(path, 0o640) }, record.ErrKeyFile},
		"readable by its owner": {func(path string) error { return os.Chmod(path, 0o400) }, record.ErrKeyFile},
		"too short":             {func(path string) error { return os.Truncate(path, 31) }, record.ErrKeyFile},
		"too long":              {func(path string) error { return os.Truncate(path, 33) }, record.ErrKeyFile},
		"a second name":         {func(path string) error { return os.Link(path, path+"2") }, record.ErrKeyFile},
		"a link":                {func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) }, record.ErrKeyFile},
		"a directory":           {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, record.ErrKeyFile},
		"a directory of others": {func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, record.ErrKeyFile},
		"missing":               {os.Remove, record.ErrNoKey},
		"owned by another user": {func(path string) error { return os.Chown(path, 4711, 0) }, record.ErrKeyFile},
	} {
		if name == "owned by another user" && os.Geteuid() != 0 {
			continue
		}
		path := filepath.Join(t.TempDir(), "etc", "record.key")
		first, _, err := record.MakeKey(path)
		must.OK(t, err)
		must.OK(t, c.spoil(path))
		key, err := record.LoadKey(path)
		if !errors.Is(err, c.want) || c.want == nil && key.Fingerprint() != first.Fingerprint() {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: the error is not one line that names the file: %v", name, err)
		}
		if _, made, err := record.MakeKey(path); errors.Is(c.want, record.ErrKeyFile) && (made || err == nil) {
			t.Errorf("%s: it was replaced: %v", name, err)
		}
	}
}

// TestKeyIsMadeOnce: processes that make the key at the same time have the same one.
func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etc", "record.key")
	var all sync.WaitGroup
	found := make([]string, 16)
	count := make([]bool, len(found))
	for i := range found {
		all.Go(func() {
			key, made, err := record.MakeKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			found[i], count[i] = key.Fingerprint(), made
		})
	}
	all.Wait()
	makers := 0
	for i := range found {
		if found[i] != found[0] || found[i] == "" {
			t.Errorf("process %d has the key %s, and process 0 %s", i, found[i], found[0])
		}
		if count[i] {
			makers++
		}
	}
	if left := must.Get(os.ReadDir(filepath.Dir(path)))(t); makers != 1 || len(left) != 1 {
		t.Errorf("it was made %d times, and there is %v", makers, left)
	}
}

// TestKeyIsNotPrinted: no verb prints the key.
func TestKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etc", "record.key")
	key, _, err := record.MakeKey(path)
	must.OK(t, err)
	secret := must.Get(os.ReadFile(path))(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, value := range []any{key, record.Signer{Key: key}} {
			text := fmt.Sprintf(verb, value)
			if strings.Contains(text, string(secret)) || strings.Contains(text, fmt.Sprintf("%x", secret)[:8]) || strings.Contains(text, fmt.Sprint(secret[0])+" "+fmt.Sprint(secret[1])) {
				t.Errorf("%s prints the key: %s", verb, text)
			}
		}
	}
	if strings.Contains(key.Fingerprint(), fmt.Sprintf("%x", secret)[:8]) {
		t.Error("the fingerprint is the key")
	}
}

// TestTLSOfARecord: the directory and the user of a TLS client, which become QEMU's
// arguments, have a syntax.
func TestTLSOfARecord(t *testing.T) {
	t.Parallel()
	const disk = "<disk type='network'><source protocol='nbd' name='a' tls='yes'><host name='h'/></source><target dev='vdb' bus='virtio'/></disk>"
	for _, reading := range []record.Reading{{TLSDir: "etc"}, {TLSDir: "/etc\n"}, {TLSDir: "/a\x1b[2J"}, {TLSUser: "a\tb"}} {
		if _, err := record.New([]byte(disk), nil, reading); !errors.Is(err, record.ErrTLS) {
			t.Errorf("%+v is recorded: %v", reading, err)
		}
		d := must.Get(record.New([]byte(disk), nil, record.Reading{}))(t)
		d.Reading = reading
		if _, err := d.Parsed(); !errors.Is(err, record.ErrTLS) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%+v is used: %v", reading, err)
		}
	}
}

// TestOwnersOfAnEarlierRecord: owners that an earlier version has recorded are read, and
// covered by the signature.
func TestOwnersOfAnEarlierRecord(t *testing.T) {
	t.Parallel()
	s := signer(t, vm1)
	r := example(t)
	r.Disks[0].Owners = []access.Owner{{Path: "/etc/shadow", UID: 7}}
	r = must.Get(s.Sign(r))(t)
	if err := s.Verify(r); err != nil {
		t.Error(err)
	}
	r.Disks[0].Owners[0].UID = 8
	if err := s.Verify(r); !errors.Is(err, record.ErrSignature) {
		t.Errorf("got %v", err)
	}
}
