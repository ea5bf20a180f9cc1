package peer

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

func TestVolumeIsReadableOnTheHost(t *testing.T) {
	t.Parallel()
	for _, kind := range VolumeKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			v := NewVolume(t, kind)
			plain, err := v.ReadThrough(testContext(t), 4096, 1024)
			if err != nil || len(plain) != 1024 {
				t.Fatalf("read %d bytes, error %v", len(plain), err)
			}
			if _, err := v.ReadThrough(testContext(t), 100, 512); err == nil {
				t.Error("an offset inside a sector was read")
			}
			must.OK(t, os.WriteFile(v.PassphraseFile, []byte("wrong"), 0o600))
			if _, err := v.ReadThrough(testContext(t), 0, 512); err == nil || !strings.Contains(err.Error(), "Invalid password") {
				t.Errorf("another passphrase gave %v", err)
			}
		})
	}
}

// TestVolumeInAGuest opens a volume with QEMU alone, to validate the volumes that other tests use.
func TestVolumeInAGuest(t *testing.T) {
	Long(t, "boots a guest to test the harness, whose volumes most tests use")
	t.Parallel()
	ctx := testContext(t)
	v := NewVolume(t, DetachedRaw)
	q := Start(t, Options{Guest: true, Extra: []string{
		"-object", "secret,id=key,file=" + v.PassphraseFile,
		"-blockdev", "driver=luks,node-name=disk,key-secret=key,file.driver=file,file.filename=" + v.Payload + ",header.driver=file,header.filename=" + v.Header,
		"-device", "virtio-blk-pci,drive=disk,serial=volume",
	}})
	dev, err := q.Guest().WaitDisk(ctx, "volume")
	must.OK(t, err)
	if size, err := q.Guest().SizeOf(ctx, dev); err != nil || size != v.Size {
		t.Errorf("the guest sees %d bytes, error %v; want %d", size, err, v.Size)
	}
	pattern := []byte("plaintext only the guest may see. ")
	must.OK(t, q.Guest().WritePattern(ctx, dev, 5, 1, pattern))
	must.OK(t, q.Close())
	plain, err := v.ReadThrough(ctx, 5*MiB, MiB)
	if err != nil || !bytes.Equal(plain, Pattern(pattern)) {
		t.Errorf("the host does not read what the guest wrote; error %v", err)
	}
	cipher, err := os.ReadFile(v.Payload)
	if err != nil || bytes.Contains(cipher, pattern) {
		t.Errorf("the payload holds plaintext; error %v", err)
	}
}

func TestDiskXMLIsWellFormed(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"", "/a'b&c.hdr"} {
		v := Volume{Payload: "/p<q.img", Format: "raw", Header: header, SecretUUID: "u"}
		var disk struct {
			Source struct {
				File   string `xml:"file,attr"`
				Header struct {
					File string `xml:"file,attr"`
				} `xml:"encryption>header>source"`
			} `xml:"source"`
		}
		must.OK(t, xml.Unmarshal([]byte(v.DiskXML("vdb", "virtio")), &disk))
		if disk.Source.File != v.Payload || disk.Source.Header.File != header {
			t.Errorf("paths %q read back as %+v", []string{v.Payload, header}, disk)
		}
	}
}

func ExamplePattern() {
	fmt.Printf("%.9s, %d bytes\n", Pattern([]byte("abc")), len(Pattern([]byte("abc"))))
	// Output: abcabcabc, 1048576 bytes
}
