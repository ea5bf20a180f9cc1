package hotplug_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/must"
)

// chainImages makes a base image and images that name it, or another file, by their formats
// and options of qemu-img.
func chainImages(t *testing.T) (base string, create func(name string, args ...string) string) {
	t.Helper()
	must.Have(t, "qemu-img")
	dir := t.TempDir()
	create = func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		must.Run(t, "", "qemu-img", append(append([]string{"create", "-q"}, args...), path, "1M")...)
		return path
	}
	return create("the base's image", "-f", "raw"), create
}

// diskOf returns a disk with elements in its source and beside it.
func diskOf(t *testing.T, format, path, inSource, inDisk string) *blockgraph.Disk {
	t.Helper()
	disk, err := diskxml.ParseDisk([]byte(fmt.Sprintf(`<disk type='file'><driver name='qemu' type='%s'/><source file='%s'>%s</source>%s<target dev='sdb' bus='scsi'/></disk>`,
		format, path, inSource, inDisk)))
	must.OK(t, err)
	return disk
}

var namedElement = regexp.MustCompile(`write (<(backingStore|dataStore).*</(?:backingStore|dataStore)>) into`)

// suggested returns the element that a refusal names, by the place for it.
func suggested(t *testing.T, err error) (inSource, inDisk string) {
	t.Helper()
	found := namedElement.FindStringSubmatch(err.Error())
	if found == nil {
		t.Fatalf("no element is named: %v", err)
	}
	if found[2] == "dataStore" {
		return found[1], ""
	}
	return "", found[1]
}

// TestFilesThatOnlyImagesName: a disk is refused if an image of it names a file that the XML
// does not. The element in the message makes it attachable; so does the caller's trust.
func TestFilesThatOnlyImagesName(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	before := state(ctx, t, v)
	base, create := chainImages(t)
	data := filepath.Join(t.TempDir(), "data")
	unsaid := create("unsaid", "-f", "qcow2", "-b", base, "-F", "raw")
	content := must.Get(os.ReadFile(unsaid))(t) // another number makes its extension an unknown one
	must.OK(t, os.WriteFile(unsaid, bytes.Replace(content, []byte{0xe2, 0x79, 0x2a, 0xca}, []byte("none"), 1), 0o600))
	attach := func(disk *blockgraph.Disk, s hotplug.Spec) error {
		_, err := v.Attach(ctx, disk, store(""), hotplug.AttachOptions{Spec: s})
		return err
	}
	detach := func(name string) {
		t.Helper()
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ format, path string }{
		"backing":        {"qcow2", create("backing", "-f", "qcow2", "-b", base, "-F", "raw")},
		"relative":       {"qcow2", create("relative", "-f", "qcow2", "-b", filepath.Base(base), "-F", "raw")},
		"without format": {"qcow2", unsaid},
		"as JSON":        {"qcow2", create("json", "-f", "qcow2", "-u", "-F", "raw", "-b", `json:{"driver":"raw","file":{"driver":"file","filename":"`+base+`"}}`)},
		"as flat JSON":   {"qcow2", create("flat", "-f", "qcow2", "-u", "-F", "raw", "-b", `json:{"driver":"raw","file.driver":"file","file.filename":"`+base+`"}`)},
		"data":           {"qcow2", create("with data", "-f", "qcow2", "-o", "data_file="+data+",data_file_raw=on")},
		"qed":            {"qed", create("qed", "-f", "qed", "-b", base, "-F", "raw")},
	} {
		err := attach(diskOf(t, c.format, c.path, "", ""), hotplug.Spec{})
		if !errors.Is(err, hotplug.ErrImageChain) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		inSource, inDisk := suggested(t, err)
		if err := attach(diskOf(t, c.format, c.path, inSource, inDisk), hotplug.Spec{}); err != nil {
			t.Errorf("%s, with %s%s: %v", name, inSource, inDisk, err)
			continue
		}
		detach(name)
		if err := attach(diskOf(t, c.format, c.path, "", ""), hotplug.Spec{TrustImageChain: true}); err != nil {
			t.Errorf("%s, trusted: %v", name, err)
			continue
		}
		detach(name)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestRefusedReferences: images whose names lead to a server, or cannot be in the XML.
func TestRefusedReferences(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	_, create := chainImages(t)
	named := func(name, backing string) string {
		return create(name, "-f", "qcow2", "-u", "-F", "qcow2", "-b", backing)
	}
	for name, c := range map[string]struct{ format, path, says string }{
		"nbd URL":    {"qcow2", named("a", "nbd://10.0.0.1:10809/x"), `<source protocol='nbd' name='x'><host name='10.0.0.1' port='10809'/></source>`},
		"nbd socket": {"qcow2", named("b", "nbd+unix:///x?socket=/run/a.sock"), `<source protocol='nbd' name='x'><host transport='unix' socket='/run/a.sock'/></source>`},
		"old nbd":    {"qcow2", named("c", "nbd:10.0.0.1:10809:exportname=x"), `<source protocol='nbd' name='x'><host name='10.0.0.1' port='10809'/></source>`},
		"old socket": {"qcow2", named("d", "nbd:unix:/run/a.sock:exportname=x"), `<host transport='unix' socket='/run/a.sock'/>`},
		"JSON": {"qcow2", named("e", `json:{"driver":"qcow2","file":{"driver":"nbd","export":"x","server":{"type":"inet","host":"10.0.0.1","port":"10809"}}}`),
			`<source protocol='nbd' name='x'><host name='10.0.0.1' port='10809'/></source>`},
		"device":       {"qcow2", named("f", "/dev/vg0/base"), `<backingStore type='block'><format type='qcow2'/><source dev='/dev/vg0/base'/></backingStore>`},
		"system file":  {"qcow2", named("g", "/etc/shadow"), `/etc/shadow`},
		"quotes":       {"qcow2", named("h", "/srv/it's <a>"), `<source file='/srv/it&#39;s &lt;a&gt;'/>`},
		"vmdk extents": {"vmdk", create("i.vmdk", "-f", "vmdk", "-o", "subformat=monolithicFlat"), "convert it to an image of one file"},
	} {
		_, err := v.Attach(ctx, diskOf(t, c.format, c.path, "", ""), store(""), hotplug.AttachOptions{Spec: hotplug.Spec{Relabel: true}})
		var refused *hotplug.PreflightError
		if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrImageChain) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "chown") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Below the top layer, and in a header.
	top := create("top", "-f", "qcow2")
	lower := named("lower", "/srv/x")
	_, err := v.Attach(ctx, diskOf(t, "qcow2", top, "", "<backingStore type='file'><format type='qcow2'/><source file='"+lower+"'/></backingStore>"), store(""), hotplug.AttachOptions{})
	if !errors.Is(err, hotplug.ErrImageChain) || !strings.Contains(err.Error(), "into its <backingStore>") {
		t.Errorf("a lower layer: %v", err)
	}
	header := "<encryption format='luks'><secret type='passphrase' usage='test'/><header type='file'><format type='qcow2'/><source file='" + lower + "'/></header></encryption>"
	if _, err := v.Attach(ctx, diskOf(t, "raw", plainDisk(t, "sdb").Image.Source.Path, header, ""), store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrImageChain) {
		t.Errorf("a header: %v", err)
	}
}

// TestTerminatedChain: an empty <backingStore/> needs no trust, because QEMU then opens no
// backing file, as in libvirt.
func TestTerminatedChain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	base, create := chainImages(t)
	path := create("top", "-f", "qcow2", "-b", base, "-F", "raw")
	depth := func(inDisk string, s hotplug.Spec) int {
		t.Helper()
		if _, err := v.Attach(ctx, diskOf(t, "qcow2", path, "", inDisk), store(""), hotplug.AttachOptions{Spec: s}); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, node := range state(ctx, t, v).Nodes {
			if node.IsStorage() && node.File == base {
				n++
			}
		}
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := depth("<backingStore/>", hotplug.Spec{}); n != 0 {
		t.Errorf("QEMU has opened %d files below", n)
	}
	if n := depth("", hotplug.Spec{TrustImageChain: true}); n != 1 {
		t.Errorf("trusted: QEMU has opened %d files below", n)
	}
}

// TestQEMUOpensWhatWasNotChecked: if the image could not be checked, or names a file only
// since it was checked, the attach is rolled back before the guest sees the disk.
func TestQEMUOpensWhatWasNotChecked(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	base, create := chainImages(t)
	backing := create("backing", "-f", "qcow2", "-b", base, "-F", "raw")
	data := create("data", "-f", "qcow2", "-o", "data_file="+filepath.Join(t.TempDir(), "d"))
	remote, _ := vm(t, hotplug.Options{Files: hotplug.FilesRemote})
	local, _ := vm(t, hotplug.Options{})
	wantBack := func(v *hotplug.VM, disk *blockgraph.Disk, options hotplug.AttachOptions) {
		t.Helper()
		before := state(ctx, t, v)
		_, err := v.Attach(ctx, disk, store(key), options)
		var back *hotplug.RolledBackError
		if !errors.As(err, &back) || !errors.Is(err, hotplug.ErrImageChain) {
			t.Errorf("%s: %v", disk.Image.Source, err)
		}
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
	}
	wantBack(remote, diskOf(t, "qcow2", backing, "", ""), hotplug.AttachOptions{})
	wantBack(remote, diskOf(t, "qcow2", data, "", ""), hotplug.AttachOptions{})
	if _, err := remote.Attach(ctx, diskOf(t, "qcow2", backing, "", "<backingStore/>"), store(""), hotplug.AttachOptions{}); err != nil {
		t.Errorf("a terminated chain: %v", err)
	}
	// Before is called after the checks.
	exchange := func(path, by string) hotplug.AttachOptions {
		return hotplug.AttachOptions{Before: func(context.Context, hotplug.Prepared) (string, error) {
			content, err := os.ReadFile(by)
			return "", errors.Join(err, os.WriteFile(path, content, 0o600))
		}}
	}
	for _, by := range []string{backing, data} {
		path := create("plain", "-f", "qcow2")
		wantBack(local, diskOf(t, "qcow2", path, "", ""), exchange(path, by))
	}
	luks := []string{"--object", "secret,id=s,data=" + key, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"}
	path, by := create("luks", luks...), create("luks with backing", append(luks, "-b", base, "-F", "raw")...)
	options := exchange(path, by)
	options.Unlock = hotplug.UnlockExternal
	wantBack(local, diskOf(t, "qcow2", path, "<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>", ""), options)
}

// TestChainOnServer: the rule holds for an image that a storage daemon reads, which itself
// opens nothing that only the image names.
func TestChainOnServer(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "qemu-storage-daemon")
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	base, create := chainImages(t)
	top := create("top", "-f", "qcow2", "-b", base, "-F", "raw")
	content := must.Get(os.ReadFile(top))(t)
	slices := filepath.Join(t.TempDir(), "slices")
	must.OK(t, os.WriteFile(slices, append(make([]byte, 1<<20), content...), 0o600), os.Truncate(slices, 2<<20))
	slice := fmt.Sprintf("<slices><slice type='storage' offset='%d' size='%[1]d'/></slices>", 1<<20)
	if _, err := v.Attach(ctx, diskOf(t, "qcow2", slices, slice, ""), store(""), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrImageChain) {
		t.Errorf("in a slice of a file: %v", err)
	}
	socket := serve(t, top)
	disk := func(inDisk string) *blockgraph.Disk {
		d, err := diskxml.ParseDisk([]byte(`<disk type='network'><driver name='qemu' type='qcow2'/><source protocol='nbd' name='disk'><host transport='unix' socket='` + socket +
			`'/></source>` + inDisk + `<target dev='sdb' bus='scsi'/></disk>`))
		must.OK(t, err)
		return d
	}
	_, err := v.Attach(ctx, disk(""), store(""), hotplug.AttachOptions{})
	if !errors.Is(err, hotplug.ErrImageChain) {
		t.Fatalf("got %v", err)
	}
	_, inDisk := suggested(t, err)
	for name, at := range map[string]func() error{
		"with the element": func() error { _, err := v.Attach(ctx, disk(inDisk), store(""), hotplug.AttachOptions{}); return err },
		"terminated": func() error {
			_, err := v.Attach(ctx, disk("<backingStore/>"), store(""), hotplug.AttachOptions{})
			return err
		},
		"trusted": func() error {
			_, err := v.Attach(ctx, disk(""), store(""), hotplug.AttachOptions{Spec: hotplug.Spec{TrustImageChain: true}})
			return err
		},
	} {
		if err := at(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantNothingLeft(ctx, t, v, before, run)
}

// TestHeaderOfTheGuest: a raw disk into which its guest has written a LUKS or qcow2 header is
// refused, because it may be a mistake of the XML, and attached if the caller allows it.
func TestHeaderOfTheGuest(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	s, _ := starting(t)
	_, create := chainImages(t)
	image := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "guest")
		must.OK(t, os.WriteFile(path, append(content, make([]byte, 1<<20)...), 0o600))
		return path
	}
	allow := hotplug.Spec{AllowGuestHeader: true}
	for name, path := range map[string]string{
		"LUKS":          must.LUKS(t, key, 4<<20),
		"LUKS, damaged": image([]byte("LUKS\xba\xbe\x00\x02")),
		"qcow2":         image(must.Get(os.ReadFile(create("guest.qcow2", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw")))(t)),
		"qcow2 magic":   image([]byte("QFI\xfb\x00\x00\x00\x03")),
	} {
		disk := diskOf(t, "raw", path, "", "")
		disk.Target = "sdb"
		d := coldstart.Disk{Disk: disk, Method: blockgraph.MethodQEMU}
		for what, err := range map[string]error{
			"attach": attachWith(ctx, v, disk, hotplug.Spec{}), "start": s.Check(ctx, d, coldstart.ArrivalBoot, store("")),
		} {
			if !errors.Is(err, hotplug.ErrGuestHeader) || !errors.Is(err, hotplug.ErrUnexpectedEncryption) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		d.Spec = allow
		if err := s.Check(ctx, d, coldstart.ArrivalBoot, store("")); err != nil {
			t.Errorf("%s, start, allowed: %v", name, err)
		}
		assumed := *disk
		assumed.FormatAssumed = true
		if err := attachWith(ctx, v, &assumed, allow); !errors.Is(err, hotplug.ErrGuestHeader) || !strings.Contains(err.Error(), "state <driver type='raw'/>") {
			t.Errorf("%s, without a format: %v", name, err)
		}
		if err := attachWith(ctx, v, disk, allow); err != nil {
			t.Errorf("%s, allowed: %v", name, err)
			continue
		}
		if n := state(ctx, t, v).Node("luksplug-sdb-payload-storage"); n == nil || n.Driver != "file" {
			t.Errorf("%s: the guest does not see the file: %+v", name, n)
		}
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}
}

func attachWith(ctx context.Context, v *hotplug.VM, disk *blockgraph.Disk, s hotplug.Spec) error {
	_, err := v.Attach(ctx, disk, store(""), hotplug.AttachOptions{Spec: s})
	return err
}

// TestDataStoreThatIsAVolume: a data store that begins with a header is refused, because
// one write of the guest destroys it, and attached if the caller says that it is the
// guest's.
func TestDataStoreThatIsAVolume(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	elsewhere, _ := vm(t, hotplug.Options{Files: hotplug.FilesRemote})
	_, create := chainImages(t)
	for name, content := range map[string][]byte{"a volume": must.Get(os.ReadFile(must.LUKS(t, key, 4<<20)))(t), "zeros": make([]byte, 1<<20)} {
		data := filepath.Join(t.TempDir(), "data")
		disk := diskOf(t, "qcow2", create("remote "+name, "-f", "qcow2", "-o", "data_file="+data), "<dataStore type='file'><format type='raw'/><source file='"+data+"'/></dataStore>", "")
		must.OK(t, os.WriteFile(data, content, 0o600))
		var back *hotplug.RolledBackError
		if err := attachWith(ctx, elsewhere, disk, hotplug.Spec{}); name == "zeros" && err != nil || name != "zeros" && (!errors.As(err, &back) || !errors.Is(err, hotplug.ErrGuestHeader)) {
			t.Errorf("a VM on another host, %s: %v", name, err)
		} else if err == nil {
			_ = must.Get(elsewhere.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
		}
	}
	for name, content := range map[string][]byte{
		"LUKS": []byte("LUKS\xba\xbe\x00\x01"), "re-encryption": []byte("LUKS\xde\xad\x00\x01"), "qcow2": []byte("QFI\xfb\x00\x00\x00\x03"),
	} {
		for _, raw := range []string{"on", "off"} {
			data := filepath.Join(t.TempDir(), "data")
			path := create(name+raw, "-f", "qcow2", "-o", "data_file="+data+",data_file_raw="+raw)
			must.OK(t, os.WriteFile(data, append(content, make([]byte, 1<<20-8)...), 0o600))
			named := diskOf(t, "qcow2", path, "<dataStore type='file'><format type='raw'/><source file='"+data+"'/></dataStore>", "")
			implied := diskOf(t, "qcow2", path, "", "")
			for what, err := range map[string]error{
				"named": attachWith(ctx, v, named, hotplug.Spec{}), "trusted": attachWith(ctx, v, implied, hotplug.Spec{TrustImageChain: true}),
			} {
				if !errors.Is(err, hotplug.ErrGuestHeader) || !strings.Contains(err.Error(), "the data store "+data) {
					t.Errorf("%s, %s, %s: %v", name, raw, what, err)
				}
			}
			for what, err := range map[string]error{
				"not trusted": attachWith(ctx, v, implied, hotplug.Spec{}),
			} {
				if !errors.Is(err, hotplug.ErrImageChain) || !strings.Contains(err.Error(), data) {
					t.Errorf("%s, %s: %v", name, what, err)
				}
			}
			for _, attach := range []func() error{
				func() error { return attachWith(ctx, v, named, hotplug.Spec{AllowGuestHeader: true}) },
				func() error {
					return attachWith(ctx, v, implied, hotplug.Spec{AllowGuestHeader: true, TrustImageChain: true})
				},
			} {
				if err := attach(); err != nil {
					t.Errorf("%s, %s, allowed: %v", name, raw, err)
					continue
				}
				if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestEncryptedFileThatAnImageNames: a trusted image does not lead to an encrypted file, which
// the guest would see as ciphertext.
func TestEncryptedFileThatAnImageNames(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "qemu-storage-daemon")
	v, _ := vm(t, hotplug.Options{})
	before := state(ctx, t, v)
	_, create := chainImages(t)
	volume := must.LUKS(t, key, 4<<20)
	interrupted := must.File(t, append([]byte("LUKS\xde\xad\x00\x01"), make([]byte, 1<<20)...))
	inside := create("inside", "--object", "secret,id=s,data="+key, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
	over := func(name, base, format string) string {
		return create(name, "-f", "qcow2", "-u", "-b", base, "-F", format)
	}
	unsaid := over("unsaid", volume, "raw") // QEMU probes then
	content := must.Get(os.ReadFile(unsaid))(t)
	must.OK(t, os.WriteFile(unsaid, bytes.Replace(content, []byte{0xe2, 0x79, 0x2a, 0xca}, []byte("none"), 1), 0o600))
	node := func(inner string) string { return "json:" + inner }
	file := `{"driver":"file","filename":"` + volume + `"}`
	for name, path := range map[string]string{
		"a path":              over("abs", volume, "raw"),
		"without a format":    unsaid,
		"by its driver":       over("luks", volume, "luks"),
		"JSON":                over("json", node(`{"driver":"raw","file":`+file+`}`), "raw"),
		"JSON with driver":    over("jsonluks", node(`{"driver":"luks","key-secret":"s","file":`+file+`}`), "luks"),
		"file:":               over("file", "file:"+volume, "raw"),
		"an NBD server":       over("nbd", "nbd+unix:///disk?socket="+serve(t, volume), "raw"),
		"qcow2":               over("qcow2", inside, "qcow2"),
		"below another image": over("deep", over("middle", volume, "raw"), "qcow2"),
		"in re-encryption":    over("interrupted", interrupted, "raw"),
	} {
		err := attachWith(ctx, v, diskOf(t, "qcow2", path, "", ""), hotplug.Spec{TrustImageChain: true, AllowGuestHeader: true})
		var refused *hotplug.PreflightError
		if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrUnexpectedEncryption) || !strings.Contains(err.Error(), "describe it in <backingStore> with its <encryption>") {
			t.Errorf("%s: %v", name, err)
		}
	}
	remote, err := diskxml.ParseDisk([]byte(`<disk type='network'><driver name='qemu' type='qcow2'/><source protocol='nbd' name='disk'><host transport='unix' socket='` + serve(t, over("served", volume, "raw")) +
		`'/></source><target dev='sdb' bus='scsi'/></disk>`))
	must.OK(t, err)
	if err := attachWith(ctx, v, remote, hotplug.Spec{TrustImageChain: true}); !errors.Is(err, hotplug.ErrUnexpectedEncryption) {
		t.Errorf("an image on a server: %v", err)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestPayloadLooksPlain: a payload that looks like plain data is refused under a detached
// header, local or on a server, at an attach and at a start, and attached if the caller allows
// it.
func TestPayloadLooksPlain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "wipefs", "cryptsetup", "qemu-storage-daemon")
	v, _ := vm(t, hotplug.Options{})
	s, _ := starting(t)
	header := must.File(t, make([]byte, 4<<20))
	payload := must.LUKS(t, key, 8<<20, "--type", "luks1", "--offset", "0", "--header", header)
	f := must.Get(os.OpenFile(payload, os.O_WRONLY, 0))(t)
	for at, text := range map[int64]string{450: "\x83\x00\x00\x00\x01\x00\x00\x00\x10", 510: "\x55\xaa"} {
		must.Get(f.WriteAt([]byte(text), at))(t)
	}
	must.OK(t, f.Close())
	const enc = "<encryption format='luks'><secret type='passphrase' usage='test'/><header type='%s'>%s</header></encryption>"
	server := func(path string) string {
		served := must.File(t, must.Get(os.ReadFile(path))(t)) // the original stays free
		return "<source protocol='nbd' name='disk'><host transport='unix' socket='" + serve(t, served) + "'/>"
	}
	local, there := fmt.Sprintf(enc, "file", "<source file='"+header+"'/>"), fmt.Sprintf(enc, "network", server(header)+"</source>")
	remote := must.Get(diskxml.ParseDisk([]byte("<disk type='network'><driver name='qemu' type='raw'/>" + server(payload) + local + "</source><target dev='sdb' bus='scsi'/></disk>")))(t)
	for name, disk := range map[string]*blockgraph.Disk{
		"local": diskOf(t, "raw", payload, local, ""), "payload on a server": remote, "header on a server": diskOf(t, "raw", payload, there, ""),
	} {
		attach := func(s hotplug.Spec) error {
			_, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Spec: s})
			return err
		}
		err := attach(hotplug.Spec{})
		var refused *hotplug.PreflightError
		if !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrPayloadSignature) || !strings.Contains(err.Error(), "dos at byte 510") {
			t.Errorf("%s: %v", name, err)
		}
		if err := attach(hotplug.Spec{AllowPayloadSignature: true}); err != nil {
			t.Errorf("%s, allowed: %v", name, err)
		} else if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}
	d := coldstart.Disk{Disk: diskOf(t, "raw", payload, local, ""), Method: blockgraph.MethodEphemeralHeader}
	if err := s.Check(ctx, d, coldstart.ArrivalBoot, store(key)); !errors.Is(err, hotplug.ErrPayloadSignature) {
		t.Errorf("a start: %v", err)
	}
	d.AllowPayloadSignature = true
	if err := s.Check(ctx, d, coldstart.ArrivalBoot, store(key)); err != nil {
		t.Errorf("a start, allowed: %v", err)
	}
}

// TestPayloadWithAHeader: what begins a payload under a detached header is not the guest's,
// and nothing allows a header in it.
func TestPayloadWithAHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	volume := must.LUKS(t, key, 4<<20)
	header := filepath.Join(t.TempDir(), "header")
	must.OK(t, os.WriteFile(header, must.Get(os.ReadFile(volume))(t), 0o600))
	disk := diskOf(t, "raw", volume, "<encryption format='luks'><secret type='passphrase' usage='test'/><header type='file'><source file='"+header+"'/></header></encryption>", "")
	disk.Target = "sdc"
	if err := attachWith(ctx, v, disk, hotplug.Spec{AllowGuestHeader: true}); !errors.Is(err, hotplug.ErrUnexpectedEncryption) {
		t.Errorf("a payload with a header: %v", err)
	}
}
