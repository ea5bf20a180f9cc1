package image_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

func Example() {
	f, err := os.CreateTemp("", "image")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(f.Truncate(1<<20), f.Close()); err != nil {
		fmt.Println(err)
		return
	}
	info, err := image.Probe(f.Name())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Format, info.Size, info.LUKS == nil)
	if err := image.CheckLock(f.Name(), image.ReadWrite); err == nil {
		fmt.Println("free")
	}
	start, err := prefix(f.Name(), image.Raw, 4)
	fmt.Printf("%q %v\n", start, err)
	// Output:
	// raw 1048576 true
	// free
	// "\x00\x00\x00\x00" <nil>
}

// qemuInfo is the output of qemu-img info.
type qemuInfo struct {
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual-size"`
	ClusterSize int64  `json:"cluster-size"`
	Backing     string `json:"backing-filename"`
	Specific    struct {
		Data struct {
			Compat     string `json:"compat"`
			DataFile   string `json:"data-file"`
			ExtendedL2 bool   `json:"extended-l2"`
			Encrypt    struct {
				Format string `json:"format"`
				UUID   string `json:"uuid"`
			} `json:"encrypt"`
		} `json:"data"`
	} `json:"format-specific"`
}

func askQEMU(t *testing.T, path string) qemuInfo {
	t.Helper()
	var info qemuInfo
	must.OK(t, json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", path)), &info))
	return info
}

func TestFormatsAreAsQEMUSays(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"raw", "qcow2", "luks", "qcow", "qed", "vmdk", "vdi", "vhdx"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			path := create(t, format, "8M")
			info, err := image.Probe(path)
			must.OK(t, err)
			stat, err := os.Stat(path)
			must.OK(t, err)
			if want := askQEMU(t, path).Format; string(info.Format) != want || info.Size != stat.Size() || info.Block || info.Path != path {
				t.Errorf("%+v, QEMU says %s", info, want)
			}
			if (info.LUKS != nil) != (format == "luks") || (info.Qcow2 != nil) != (format == "qcow2") {
				t.Errorf("%+v", info)
			}
		})
	}
}

func TestQcow2IsAsQEMUSays(t *testing.T) {
	t.Parallel()
	base := create(t, "qcow2", "3M")
	for name, options := range map[string][]string{
		"version 2": {"compat=0.10"}, "version 3": {"compat=1.1"}, "zlib": {"compression_type=zlib"}, "zstd": {"compression_type=zstd"},
		"small clusters": {"cluster_size=512"}, "big clusters": {"cluster_size=2M"}, "extended L2": {"extended_l2=on"},
		"backing": {"backing_file=" + base, "backing_fmt=qcow2"},
		"luks":    {"encrypt.format=luks", "encrypt.iter-time=10"},
		"aes":     {"encrypt.format=aes"},
		"data":    {"data_file=" + filepath.Join(t.TempDir(), "data"), "data_file_raw=on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := create(t, "qcow2", "3M", options...)
			info, err := image.Probe(path)
			must.OK(t, err)
			q, want := info.Qcow2, askQEMU(t, path)
			compat := map[int]string{2: "0.10", 3: "1.1"}[q.Version]
			crypt := want.Specific.Data.Encrypt.Format
			if crypt == "" {
				crypt = "none"
			}
			if compat != want.Specific.Data.Compat || q.VirtualSize != want.VirtualSize || q.ClusterSize != want.ClusterSize ||
				q.BackingFile != want.Backing || q.HasBacking != (want.Backing != "") ||
				q.DataFile != want.Specific.Data.DataFile || q.HasDataFile != (q.DataFile != "") ||
				string(q.Crypt) != crypt || q.Corrupt {
				t.Errorf("%+v, QEMU says %+v", q, want)
			}
			if uuid := want.Specific.Data.Encrypt.UUID; uuid != "" && (q.LUKS == nil || q.LUKS.UUID != uuid) {
				t.Errorf("LUKS header %v, QEMU says %s", q.LUKS, uuid)
			}
			if name == "luks" { // qemu-img measures for seconds for another one
				twoLUKSHeaders(t, must.Get(os.ReadFile(path))(t))
			}
		})
	}
}

func TestLUKS2IsRecognised(t *testing.T) {
	t.Parallel()
	path := luksFormat(t, "luks2", 20<<20)
	info, err := image.Probe(path)
	if err != nil || info.Format != image.LUKS || info.LUKS.Version != 2 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestProbeRefusals(t *testing.T) {
	t.Parallel()
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "image")
		must.OK(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	qcow2 := func(off int, bytes string) string {
		b := make([]byte, 4096)
		copy(b, "QFI\xfb\x00\x00\x00\x03")
		b[23] = 12   // cluster bits
		b[30] = 0    // virtual size 0
		b[103] = 104 // header length
		copy(b[off:], bytes)
		return write(string(b))
	}
	if _, err := image.Probe(qcow2(0, "")); err != nil {
		t.Fatalf("the image that the others spoil is not right itself: %v", err)
	}
	for name, test := range map[string]struct {
		path string
		want error
	}{
		"missing":           {"/nonexistent/image", fs.ErrNotExist},
		"LUKS, cut off":     {write("LUKS\xba\xbe\x00\x01"), luks.ErrDamaged},
		"LUKS version 9":    {write("LUKS\xba\xbe\x00\x09"), luks.ErrUnsupported},
		"qcow2, cut off":    {write("QFI\xfb\x00\x00\x00\x03"), image.ErrDamaged},
		"qcow2 version 4":   {qcow2(7, "\x04"), image.ErrUnsupported},
		"unknown feature":   {qcow2(72, "\x80"), image.ErrUnsupported},
		"no clusters":       {qcow2(20, "\x00\x00\x00\x00"), image.ErrDamaged},
		"giant clusters":    {qcow2(20, "\x00\x00\x00\x40"), image.ErrDamaged},
		"negative size":     {qcow2(24, "\xff"), image.ErrDamaged},
		"L1 too small":      {qcow2(30, "\x01"), image.ErrDamaged},
		"giant L1":          {qcow2(36, "\xff"), image.ErrDamaged},
		"crooked L1":        {qcow2(47, "\x01"), image.ErrDamaged},
		"encryption 3":      {qcow2(35, "\x03"), image.ErrUnsupported},
		"LUKS without":      {qcow2(35, "\x02"), image.ErrDamaged},
		"short header":      {qcow2(103, "\x08"), image.ErrDamaged},
		"endless header":    {qcow2(100, "\xff"), image.ErrDamaged},
		"backing far away":  {qcow2(8, "\x40"), image.ErrDamaged},
		"endless backing":   {qcow2(8, "\x00\x00\x00\x00\x00\x00\x02\x00\xff"), image.ErrDamaged},
		"endless extension": {qcow2(104, "DATA\x7f\xff\xff\xff"), image.ErrDamaged},
		"stray LUKS header": {qcow2(104, "\x05\x37\xbe\x77\x00\x00\x00\x10"), image.ErrDamaged},
	} {
		info, err := image.Probe(test.path)
		if info != nil || !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.path) {
			t.Errorf("%s: %+v, %v; want %v", name, info, err, test.want)
		}
	}
}

// twoLUKSHeaders: QEMU unlocks each LUKS header that a qcow2 header names, one after another, and only the last one
// would be examined here: more than one is refused.
func twoLUKSHeaders(t *testing.T, content []byte) {
	t.Helper()
	if h, err := image.ReadQcow2(bytes.NewReader(content)); err != nil || h.LUKS == nil {
		t.Fatalf("%+v, %v", h, err)
	}
	const length = 24 // of the extension
	at := bytes.Index(content, []byte("\x05\x37\xbe\x77\x00\x00\x00\x10"))
	copy(content[at+length:], content[at:at+length])
	clear(content[at+2*length : at+2*length+8]) // the end of the extensions
	if _, err := image.ReadQcow2(bytes.NewReader(content)); !errors.Is(err, image.ErrDamaged) || !strings.Contains(err.Error(), "more than one LUKS header") {
		t.Errorf("%v", err)
	}
}

func TestNoQcow2(t *testing.T) {
	t.Parallel()
	for _, other := range []string{"", "LUKS\xba\xbe\x00\x01", "QFI\xfb"} {
		if _, err := image.ReadQcow2(strings.NewReader(other)); !errors.Is(err, image.ErrDamaged) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

// Only on machines that can make loop devices: containers often cannot.
func TestBlockDevice(t *testing.T) {
	t.Parallel()
	need(t, "losetup")
	path := luksFormat(t, "luks1", 4<<20)
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	info, err := image.Probe(device)
	if err != nil || !info.Block || info.Size != 4<<20 || info.Format != image.LUKS || info.LUKS == nil {
		t.Errorf("%+v, %v", info, err)
	}
	if err := image.Writable(device); !errors.Is(err, unix.EROFS) {
		t.Errorf("a read-only device is writable: %v", err)
	}
	if image.SameFile(device, path) || !image.SameFile(device, device) {
		t.Error("SameFile")
	}
}

func FuzzQcow2(f *testing.F) {
	need(f, "qemu-io")
	// Small seeds: large ones make fuzzing slow.
	packed := filepath.Join(f.TempDir(), "packed")
	plain := create(f, "qcow2", "16k", "cluster_size=512")
	run(f, "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4k", plain)
	run(f, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", "cluster_size=512", plain, packed)
	for _, path := range []string{plain, packed, create(f, "qcow2", "16k", "cluster_size=512", "backing_file="+plain, "backing_fmt=qcow2")} {
		data, err := os.ReadFile(path)
		must.OK(f, err)
		f.Add(data)
		data[79] |= 16 // extended L2 entries
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := image.NewQcow2Guest(bytes.NewReader(data))
		var got []byte
		if err == nil {
			got = make([]byte, min(g.Size(), 1<<13))
			_, err = g.ReadAt(got, 0)
		}
		if g != nil {
			for at := int64(0); err == nil && at < int64(len(got)); {
				var length int64
				if _, length, err = g.Allocation().At(at); err == nil && length <= 0 {
					t.Fatalf("%d bytes at %d", length, at)
				}
				at += length
			}
		}
		for _, known := range []error{nil, image.ErrDamaged, image.ErrUnsupported, luks.ErrDamaged, luks.ErrUnsupported, luks.ErrNotLUKS, luks.ErrReencryption, luks.ErrIncomplete} {
			if errors.Is(err, known) {
				return
			}
		}
		t.Fatal(err)
	})
}
