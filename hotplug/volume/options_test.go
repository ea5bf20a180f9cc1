package volume_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// imageInfo is what qemu-img says of an image, without what differs between two volumes.
func imageInfo(t *testing.T, path string) map[string]any {
	t.Helper()
	var info map[string]any
	must.OK(t, json.Unmarshal([]byte(must.Run(t, "", "qemu-img", "info", "--output", "json", path)), &info))
	for _, own := range []string{"filename", "actual-size", "children", "dirty-flag"} {
		delete(info, own)
	}
	specific, _ := info["format-specific"].(map[string]any)
	data, _ := specific["data"].(map[string]any)
	encrypt, _ := data["encrypt"].(map[string]any)
	for _, m := range []map[string]any{data, encrypt} {
		for _, own := range []string{"uuid", "slots", "master-key-iters", "payload-offset", "detached-header"} {
			delete(m, own)
		}
	}
	return info
}

// TestFromDocument: a volume has the properties of the one that libvirt's commands make from the same document.
func TestFromDocument(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	base := filepath.Join(t.TempDir(), "base")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", base, "6M")
	const head, encryption, tail = "<volume><name>v</name><capacity>3000001</capacity><target><path>PATH</path>", "<encryption format='luks'><secret type='passphrase' usage='x'/>CIPHER</encryption>", "</target></volume>"
	plain := strings.ReplaceAll(encryption, "CIPHER", "")
	for name, document := range map[string]string{
		"raw":             head + plain + tail,
		"raw with cipher": head + strings.ReplaceAll(encryption, "CIPHER", "<cipher name='aes' size='128' mode='cbc' hash='sha512'/><ivgen name='essiv' hash='sha256'/>") + tail,
		"twofish":         head + strings.ReplaceAll(encryption, "CIPHER", "<cipher name='twofish' size='256'/><ivgen name='plain' hash='sha1'/>") + tail,
		"qcow2":           head + "<format type='qcow2'/>" + plain + tail,
		"qcow2 0.10":      head + "<format type='qcow2'/><compat>0.10</compat>" + plain + tail,
		"qcow2 options":   head + "<format type='qcow2'/><features><lazy_refcounts/><extended_l2/></features><clusterSize unit='KiB'>128</clusterSize>" + plain + tail,
		"qcow2 cipher":    head + "<format type='qcow2'/>" + strings.ReplaceAll(encryption, "CIPHER", "<cipher name='aes' size='256' mode='xts' hash='sha1'/>") + tail,
		"qcow2 over qcow2": "<volume><name>v</name><target><path>PATH</path><format type='qcow2'/>" + plain + "</target><backingStore><path>" + base +
			"</path><format type='qcow2'/></backingStore></volume>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !long() {
				t.Skip("qemu-img measures for a second or two for each encrypted image (make test-long runs it)")
			}
			d := t.TempDir()
			v := *must.Get(diskxml.ParseVolume([]byte(strings.ReplaceAll(document, "PATH", filepath.Join(d, "volume")))))(t)
			_, keys := keysIn(t)
			made := must.Get(volume.Create(t.Context(), must.Get(volume.FromDocument(v))(t), keys))(t)
			libvirts := v
			libvirts.Path = filepath.Join(d, "libvirt")
			key := must.File(t, []byte("secret"))
			for _, argv := range must.Get(storagevol.QemuImg(libvirts, storagevol.Making{SecretFile: key}))(t) {
				for i, word := range argv { // its default takes seconds
					prefix := ""
					if v.Format == "qcow2" {
						prefix = "encrypt."
					}
					argv[i] = strings.Replace(word, prefix+"key-secret=", prefix+"iter-time=10,"+prefix+"key-secret=", 1)
				}
				must.Run(t, "", argv[0], argv[1:]...)
			}
			if got, want := imageInfo(t, v.Path), imageInfo(t, libvirts.Path); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			again := must.Get(diskxml.ParseVolume(made.Document("v", v).XML()))(t)
			if again.Encryption.Secret.UUID != made.Secret.UUID || again.Capacity != uint64(made.Size) || again.Path != v.Path {
				t.Errorf("the document: %+v", again)
			}
		})
	}
}

func TestFromDocumentRefuses(t *testing.T) {
	t.Parallel()
	const head, luks, tail = "<volume><name>v</name><capacity>1024</capacity><target><path>/v</path>", "<encryption format='luks'/>", "</target></volume>"
	for document, want := range map[string]string{
		head + tail: "the volume v has no <encryption>, and no volume is made without",
		"<volume><name>v</name><capacity>1</capacity><target>" + luks + tail:                                           "has no <path>",
		strings.Replace(head, "<volume>", "<volume type='network'>", 1) + luks + tail:                                  "volumes of type 'network' are not made",
		head + luks + "<permissions><mode>0</mode></permissions>" + tail:                                               "the mode 0",
		head + luks + "<compat>1.1</compat>" + tail:                                                                    "compatibility option only available with qcow2",
		head + luks + "<format type='vmdk'/>" + tail:                                                                   "volume encryption unsupported with format vmdk",
		head + luks + "<format type='qcow2'/><compat>0.10</compat><features><lazy_refcounts/></features>" + tail:       "lazy_refcounts not supported with compat level 0.10",
		head + "<encryption format='default'><header type='block'><source dev='/dev/h'/></header></encryption>" + tail: "a new header is made in a raw file",
	} {
		v := must.Get(diskxml.ParseVolume([]byte(document)))(t)
		if _, err := volume.FromDocument(*v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", document, err, want)
		}
	}
	v := must.Get(diskxml.ParseVolume([]byte(head + "<encryption format='luks'><cipher name='serpent' size='256' mode='cbc'/></encryption>" + tail)))(t)
	if _, err := volume.Check(t.Context(), must.Get(volume.FromDocument(*v))(t)); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("a cipher that is not supported: %v", err)
	}
}

// TestBacking: the guest reads what is in the backing image until it writes, encrypted images included.
func TestBacking(t *testing.T) {
	t.Parallel()
	slow(t, volume.Request{Format: blockgraph.FormatQcow2})
	must.Have(t, "qemu-img", "qemu-io")
	d := t.TempDir()
	store, keys := keysIn(t)
	base := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(d, "base"), Size: size}, keys))(t)
	object, options := node(t, base, value(t, store, base))
	must.Run(t, "", "qemu-io", "--object", object, "-c", "write -P 7 0 1M", options)
	over := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(d, "over"), Format: blockgraph.FormatQcow2,
		Backing: &volume.Backing{Path: base.Path, Format: "luks"}}, keys))(t)
	if over.Size != size || len(over.Backing) != 1 || over.Backing[0].Secret.Usage != base.Path {
		t.Errorf("%+v", over)
	}
	top := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(d, "top"), Format: blockgraph.FormatQcow2,
		Backing: &volume.Backing{Path: over.Path, Format: "qcow2"}, Size: 2 * size}, keys))(t)
	disk := must.Get(diskxml.ParseDisk(top.DiskXML("vdb", "")))(t)
	if layers := disk.Layers(); len(layers) != 3 || layers[1].Encryption == nil || layers[2].Encryption == nil || layers[2].Source.Path != base.Path {
		t.Errorf("the disk: %s", top.DiskXML("vdb", ""))
	}
	top3 := fmt.Sprintf(`json:{"driver":"qcow2","encrypt":{"format":"luks","key-secret":"t"},"file":{"driver":"file","filename":%q},"backing":
		{"driver":"qcow2","encrypt":{"format":"luks","key-secret":"o"},"file":{"driver":"file","filename":%q},"backing":
		{"driver":"luks","key-secret":"s","file":{"driver":"file","filename":%q}}}}`, top.Path, over.Path, base.Path)
	must.Run(t, "", "qemu-io", "--object", object, "--object", "secret,id=o,file="+value(t, store, over), "--object", "secret,id=t,file="+value(t, store, top),
		"-c", "read -P 7 0 1M", "-c", "write -P 9 0 64k", "-c", "read -P 9 0 64k", top3)
}

func TestBackingRefuses(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	d := t.TempDir()
	_, keys := keysIn(t)
	luks1 := must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(d, "luks1"), Size: size}, keys))(t).Path
	qcow2 := filepath.Join(d, "qcow2")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", qcow2, "1M")
	unnamed := filepath.Join(d, "unnamed")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", unnamed)
	must.Run(t, "", "qemu-img", "rebase", "-q", "-u", "-b", "nbd://server/x", "-F", "raw", unnamed)
	for what, c := range map[string]struct {
		b    volume.Backing
		want string
	}{
		"no format":                {volume.Backing{Path: qcow2}, "its format is not named"},
		"LUKS as raw":              {volume.Backing{Path: luks1, Format: "raw"}, "its format is luks, and is named as raw"},
		"qcow2 as raw":             {volume.Backing{Path: qcow2, Format: "raw"}, "its format is qcow2, and is named as raw"},
		"raw as LUKS":              {volume.Backing{Path: qcow2, Format: "luks"}, "its format is qcow2, and is named as luks"},
		"another format":           {volume.Backing{Path: qcow2, Format: "vmdk"}, `the format "vmdk": raw, qcow2 and luks are possible`},
		"a server below":           {volume.Backing{Path: unnamed, Format: "qcow2"}, "is not a file of this host"},
		"a file that is not there": {volume.Backing{Path: filepath.Join(d, "none"), Format: "raw"}, "no such file"},
	} {
		_, err := volume.Check(t.Context(), volume.Request{Path: filepath.Join(d, "new"), Format: blockgraph.FormatQcow2, Backing: &c.b})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPreallocation: room is reserved, or written, and the volume opens.
func TestPreallocation(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io")
	for _, format := range []blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2} {
		for _, p := range []volume.Preallocation{volume.PreallocationMetadata, volume.PreallocationFalloc, volume.PreallocationFull} {
			if format == blockgraph.FormatRaw && p == volume.PreallocationMetadata {
				continue
			}
			t.Run(fmt.Sprintf("%s %s", format, p), func(t *testing.T) {
				t.Parallel()
				store, keys := keysIn(t)
				var last volume.Progress
				d := t.TempDir()
				r := volume.Request{Path: filepath.Join(d, "v"), Header: filepath.Join(d, "h"), Format: format, Size: 2 * size, Preallocation: p, Progress: func(p volume.Progress) { last = p }}
				v := must.Get(volume.Create(t.Context(), r, keys))(t)
				var st unix.Stat_t
				must.OK(t, unix.Stat(r.Path, &st))
				if reserved := st.Blocks*512 >= st.Size; reserved != (p != volume.PreallocationMetadata) || st.Size < 2*size {
					t.Errorf("%d of %d bytes are allocated", st.Blocks*512, st.Size)
				}
				if (p == volume.PreallocationFull) != (last.Total == st.Size && last.Done == st.Size) {
					t.Errorf("the progress was %+v of %d bytes", last, st.Size)
				}
				object, options := node(t, v, value(t, store, v))
				must.Run(t, "", "qemu-io", "--object", object, "-c", "write -P 7 1M 1M", "-c", "read -P 7 1M 1M", options)
			})
		}
	}
}

// TestPreallocationEnds: an interrupt, and a file system without room, leave nothing.
func TestPreallocationEnds(t *testing.T) {
	t.Parallel()
	for _, format := range []blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2} {
		store, keys := keysIn(t)
		ctx, cancel := context.WithCancel(t.Context())
		d := t.TempDir()
		r := volume.Request{Path: filepath.Join(d, "v"), Header: filepath.Join(d, "h"), Format: format, Size: 16 << 20, Preallocation: volume.PreallocationFull, Progress: func(volume.Progress) { cancel() }}
		if _, err := volume.Create(ctx, r, keys); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", format, err)
		}
		wantFiles(t, d)
		r.Size = 1 << 50
		if _, err := volume.Create(t.Context(), r, keys); !errors.Is(err, volume.ErrNoRoom) {
			t.Errorf("%s: %v", format, err)
		}
		wantFiles(t, d)
		if left, err := store.List(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("secrets that are left: %v, %v", left, err)
		}
	}
}

// TestAttributes: image and header have the owner, mode and label.
func TestAttributes(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving files to others needs root")
	}
	_, keys := keysIn(t)
	d := t.TempDir()
	owner, group, label := 1234, 2345, "system_u:object_r:virt_image_t:s0"
	r := volume.Request{Path: filepath.Join(d, "v"), Header: filepath.Join(d, "h"), Size: size, Mode: 0o640, Owner: &owner, Group: &group, Label: label, NoCOW: true}
	v := must.Get(volume.Create(t.Context(), r, keys))(t)
	for path, mode := range map[string]os.FileMode{r.Path: 0o640, r.Header: 0o600} {
		wantMode(t, path, mode)
		st, _ := must.Get(os.Stat(path))(t).Sys().(*syscall.Stat_t)
		value := make([]byte, 100)
		n := must.Get(unix.Getxattr(path, "security.selinux", value))(t)
		if st.Uid != 1234 || st.Gid != 2345 || string(bytes.TrimRight(value[:n], "\x00")) != label {
			t.Errorf("%s: %d:%d, %q", path, st.Uid, st.Gid, value[:n])
		}
	}
	if _, err := exec.LookPath("lsattr"); err == nil && len(v.Warnings) == 0 && !strings.Contains(must.Run(t, "", "lsattr", r.Path), "C") {
		t.Error("copy-on-write is not switched off, and no warning says so")
	}

	ram := t.TempDir()
	must.OK(t, unix.Mount("ramfs", ram, "ramfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(ram, unix.MNT_DETACH) })
	_, err := volume.Create(t.Context(), volume.Request{Path: filepath.Join(ram, "v"), Size: size, Label: label}, keys)
	if !errors.Is(err, volume.ErrLabel) {
		t.Errorf("a file system without labels: %v", err)
	}
	wantFiles(t, ram)
}

// TestReplace: an empty file is replaced, and another one only by its exact size; what was there stays until the new one is complete.
func TestReplace(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	store, keys := keysIn(t)
	d := t.TempDir()
	empty, full := filepath.Join(d, "empty"), filepath.Join(d, "full")
	must.Write(t, empty, "")
	if os.Geteuid() == 0 {
		must.OK(t, os.Chown(empty, 1234, 2345))
		defer func() {
			if st, _ := must.Get(os.Stat(empty))(t).Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 2345 {
				t.Errorf("the owner is %d:%d", st.Uid, st.Gid)
			}
		}()
	}
	must.Write(t, full, "data")
	v := must.Get(volume.Create(t.Context(), volume.Request{Path: empty, Size: size}, keys))(t)
	must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", value(t, store, v), empty)
	for force, want := range map[int64]error{0: volume.ErrExists, 5: volume.ErrExists} {
		if _, err := volume.Create(t.Context(), volume.Request{Path: full, Size: size, Force: force}, keys); !errors.Is(err, want) {
			t.Errorf("--force=%d: %v", force, err)
		}
	}
	if _, err := volume.Check(t.Context(), volume.Request{Path: filepath.Join(d, "none"), Size: size, Force: 4}); !errors.Is(err, volume.ErrRequest) {
		t.Errorf("nothing to overwrite: %v", err)
	}
	if got := string(must.Get(os.ReadFile(full))(t)); got != "data" {
		t.Errorf("the file has %q", got)
	}
	must.Get(volume.Check(t.Context(), volume.Request{Path: full, Size: size, Force: 4}))(t)
	changed := func(ctx context.Context, s secrets.Document) (secrets.Keeper, error) {
		must.Write(t, full, "more data")
		return keys(ctx, s)
	}
	if _, err := volume.Create(t.Context(), volume.Request{Path: full, Size: size, Force: 4}, changed); !errors.Is(err, volume.ErrExists) {
		t.Errorf("a file that is changed meanwhile: %v", err)
	}
	must.Get(volume.Create(t.Context(), volume.Request{Path: full, Size: size, Force: 9}, keys))(t)
	wantFiles(t, d, empty, full)
}
