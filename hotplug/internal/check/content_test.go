package check

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/shell"
)

// memory is an image in memory.
type memory struct{ *bytes.Reader }

func (m memory) Size() int64 { return m.Reader.Size() }
func (memory) Close() error  { return nil }

// failing is an image that cannot be read.
type failing struct{ memory }

var errRead = errors.New("the server has gone")

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errRead }

// TestOldEncryption: an image with the old encryption of qcow2 is refused, with a command that makes one with LUKS of it.
func TestOldEncryption(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	dir := t.TempDir()
	old, converted := filepath.Join(dir, "it's, old.qcow2"), filepath.Join(dir, "new.qcow2")
	for name, key := range map[string]string{"OLD-KEY": "one", "NEW-KEY": "two"} {
		must.OK(t, os.WriteFile(filepath.Join(dir, name), []byte(key), 0o600))
	}
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=a,file="+filepath.Join(dir, "OLD-KEY"), "-o", "encrypt.format=aes,encrypt.key-secret=a", old, "1M")
	read := func(path string) *image.Qcow2Header {
		f := must.Get(os.Open(path))(t)
		defer func() { _ = f.Close() }() // only read
		return must.Get(image.ReadQcow2(f))(t)
	}
	header := read(old)
	commands := map[string]bool{}
	for name, encryption := range map[string]string{"with <encryption>": "<encryption format='luks'><secret type='passphrase' usage='a'/></encryption>", "without": ""} {
		disk := must.Get(diskxml.ParseDisk([]byte(`<disk><driver name='qemu' type='qcow2'/><source file="` + old + `">` + encryption + `</source><target dev='vdb'/></disk>`)))(t)
		err := (&layerCheck{Candidate: &Candidate{Disk: disk, Searches: &image.Searches{}}, disk: disk}).qcow2(header)
		var unsupported *blockgraph.UnsupportedError
		if err == nil || encryption == "" && !errors.Is(err, outcome.ErrUnexpectedEncryption) || encryption != "" && !errors.As(err, &unsupported) {
			t.Fatalf("%s: %v", name, err)
		}
		_, command, _ := strings.Cut(err.Error(), "`")
		command, _, _ = strings.Cut(command, "`")
		commands[command] = true
	}
	for command := range commands { // the same from both, and qemu-img measures for seconds
		must.Run(t, "", "sh", "-c", "cd "+shell.Quote(dir)+" && "+strings.TrimSuffix(command, "NEW")+shell.Quote(converted))
		if h := read(converted); h.Crypt != image.CryptLUKS {
			t.Errorf("converted to %q by %s", h.Crypt, command)
		}
		must.OK(t, os.Remove(converted))
	}
}

// TestContent compares the content of an image with the disk's XML, without a file, a
// daemon or a VM.
func TestContent(t *testing.T) {
	t.Parallel()
	const secret, header = `<secret type='passphrase' usage='test'/>`, `<header type='file'><source file='/h'/></header>`
	plain, encrypted, detached := "", "<encryption format='luks'>"+secret+"</encryption>", "<encryption format='luks'>"+secret+header+"</encryption>"
	empty := make([]byte, 1<<20)
	put := func(at int, text string) []byte {
		b := bytes.Clone(empty)
		copy(b[at:], text)
		return b
	}
	second := "SKUL\xba\xbe\x00\x02" + strings.Repeat("\x00", 248) + "\x00\x00\x00\x00\x00\x00\x40\x00" // its offset is 0x4000
	mbr := put(446+4, "\x83\x00\x00\x00\x01\x00\x00\x00\x10")
	copy(mbr[510:], "\x55\xaa")
	reused := bytes.Clone(mbr)
	copy(reused[0x4000:], second)
	interrupted := put(0, "LUKS\xde\xad\x00\x01")
	unfilled := put(0, "PLUK\xba\xbe\x00\x01")
	clone := put(0, "RBDL\xba\xbe\x00\x01")
	fileVault := put(8, "\x01\x00\x10\x00")
	copy(fileVault[88:], "CS")
	partitioned := bytes.Clone(mbr)
	copy(partitioned[446+8:], "\x01\x00\x00\x00\x10\x00\x00\x00")
	copy(partitioned[512:], "LUKS\xba\xbe\x00\x02")
	luks := append([]byte("LUKS\xba\xbe\x00\x02"), empty...)
	future := append([]byte("LUKS\xba\xbe\x00\x09"), empty...)
	for name, c := range map[string]struct {
		encryption string
		image      []byte
		depth      depth
		cause      error // nil for none
		says       string
	}{
		"plain":                                {plain, empty, everything, nil, ""},
		"plain, shorter than a magic":          {plain, []byte("LU"), start, nil, ""},
		"LUKS taken for plain":                 {plain, luks, everything, outcome.ErrUnexpectedEncryption, "add <encryption format='luks'>"},
		"LUKS of a server taken for plain":     {plain, luks, start, outcome.ErrUnexpectedEncryption, "add <encryption format='luks'>"},
		"an unknown version taken for plain":   {plain, future, everything, outcome.ErrUnexpectedEncryption, "add <encryption format='luks'>"},
		"a payload of a detached header":       {detached, empty, start, nil, ""},
		"a payload with a header of its own":   {detached, luks, start, outcome.ErrUnexpectedEncryption, "leave <header> out"},
		"encrypted, and there are zeros":       {encrypted, empty, everything, outcome.ErrHeaderUnusable, "has no LUKS header; it begins with zeros only: check the path, or format it"},
		"encrypted, and there is noise":        {encrypted, put(1000, "noise"), everything, outcome.ErrHeaderUnusable, "data of an unknown kind, which formatting it would destroy"},
		"encrypted, and there is a partition":  {encrypted, mbr, everything, outcome.ErrHeaderUnusable, "holds dos at byte 510, which formatting it would destroy"},
		"encrypted, and it is a qcow2 image":   {encrypted, put(0, "QFI\xfb\x00\x00\x00\x03"), everything, outcome.ErrHeaderUnusable, "holds a qcow2 image, which formatting it would destroy"},
		"overwritten":                          {encrypted, put(0x4000, second), everything, outcome.ErrHeaderUnusable, "`cryptsetup repair` can restore"},
		"overwritten by partitions":            {encrypted, reused, everything, outcome.ErrHeaderUnusable, "dos at byte 510, which `cryptsetup repair` would damage"},
		"overwritten, taken for plain":         {plain, put(0x4000, second), everything, outcome.ErrGuestHeader, "`cryptsetup repair` can restore"},
		"partitions over remains":              {plain, reused, everything, outcome.ErrGuestHeader, "dos at byte 510, which `cryptsetup repair` would damage"},
		"encrypted, and it is BitLocker":       {encrypted, put(0, "\xeb\x58\x90-FVE-FS-"), everything, outcome.ErrHeaderUnusable, "holds BitLocker at byte 0, which formatting it would destroy"},
		"encrypted, and it is FileVault":       {encrypted, fileVault, everything, outcome.ErrHeaderUnusable, "holds cs_fvault2 at byte 0, which formatting it would destroy"},
		"encrypted, and it is a Ceph clone":    {encrypted, clone, everything, outcome.ErrHeaderUnusable, "encrypted Ceph clone (for engine='librbd'), which formatting it would destroy"},
		"BitLocker of the guest":               {plain, put(0, "\xeb\x58\x90-FVE-FS-"), everything, nil, ""},
		"a Ceph clone taken for plain":         {plain, clone, start, outcome.ErrUnexpectedEncryption, "add <encryption format='luks' engine='librbd'>"},
		"a Ceph clone under a header":          {detached, clone, start, outcome.ErrUnexpectedEncryption, "leave <header> out"},
		"a partition is a volume":              {encrypted, partitioned, everything, outcome.ErrHeaderUnusable, "its partition 1 is a LUKS volume: remove <encryption> if the guest opens that, or attach it alone, by <slices><slice type='storage' offset='512' size='8192'/>"},
		"a partition of the guest is a volume": {plain, partitioned, everything, nil, ""},
		"in re-encryption":                     {encrypted, interrupted, everything, outcome.ErrHeaderUnusable, "interrupted: finish it with `cryptsetup reencrypt`"},
		"in re-encryption, taken for plain":    {plain, interrupted, everything, outcome.ErrUnexpectedEncryption, "interrupted: finish it with `cryptsetup reencrypt`"},
		"in re-encryption, under a header":     {detached, interrupted, start, outcome.ErrUnexpectedEncryption, "interrupted: finish it with `cryptsetup reencrypt`"},
		"half-filled":                          {encrypted, unfilled, everything, outcome.ErrIncomplete, "use the other one"},
		"half-filled, taken for plain":         {plain, unfilled, everything, outcome.ErrIncomplete, "attach the other volume of its re-encryption"},
		"half-filled, of a server, for plain":  {plain, unfilled, start, outcome.ErrGuestHeader, "attach the other volume of its re-encryption"},
		"half-filled, under a header":          {detached, unfilled, start, outcome.ErrIncomplete, "attach the other volume of its re-encryption"},
		"another image taken for plain":        {plain, put(64, "\x7f\x10\xda\xbe"), start, outcome.ErrGuestHeader, "begins with a vdi header"},
		"another image under a header":         {detached, put(0, "KDMV"), start, outcome.ErrImageUnusable, "is a vmdk image"},
		"encrypted, and the header is damaged": {encrypted, luks, everything, outcome.ErrHeaderUnusable, "cannot be read"},
	} {
		disk, err := diskxml.ParseDisk([]byte(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/image'>` + c.encryption +
			`</source><target dev='vdb' bus='virtio'/></disk>`))
		if err != nil {
			t.Fatal(err)
		}
		l := &layerCheck{Candidate: &Candidate{Disk: disk, Searches: &image.Searches{}}, disk: disk}
		_, err = l.content(t.Context(), memory{bytes.NewReader(c.image)}, c.depth)
		var refused *outcome.PreflightError
		switch {
		case c.cause == nil && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.cause != nil && (!errors.As(err, &refused) || !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v", name, err)
		}
		if c.encryption == plain {
			if _, err := l.content(t.Context(), failing{memory{bytes.NewReader(empty)}}, c.depth); !errors.Is(err, errRead) || errors.As(err, &refused) {
				t.Errorf("%s: an image that cannot be read: %v", name, err)
			}
		}
	}
}

// TestNoDangerousAdvice: no refusal advises to format or repair an image that holds anything
// known, without saying what it holds.
func TestNoDangerousAdvice(t *testing.T) {
	t.Parallel()
	for _, c := range []contents{{}, {what: "ext4 at byte 1080"}, {blank: true}} {
		for _, text := range []string{c.withoutHeader(), c.ofOverwritten()} {
			dangerous := strings.Contains(text, "or format it") || strings.Contains(text, "repair` can")
			if dangerous && c.what != "" || c.what != "" && !strings.Contains(text, c.what) {
				t.Errorf("%+v: %s", c, text)
			}
		}
	}
}
