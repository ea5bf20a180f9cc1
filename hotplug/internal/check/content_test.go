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
	for name, encryption := range map[string]string{"with <encryption>": "<encryption format='luks'><secret type='passphrase' usage='a'/></encryption>", "without": ""} {
		disk := must.Get(diskxml.ParseDisk([]byte(`<disk><driver name='qemu' type='qcow2'/><source file="` + old + `">` + encryption + `</source><target dev='vdb'/></disk>`)))(t)
		err := (&layerCheck{Candidate: &Candidate{Disk: disk}, disk: disk}).qcow2(header)
		var unsupported *blockgraph.UnsupportedError
		if err == nil || encryption == "" && !errors.Is(err, outcome.ErrUnexpectedEncryption) || encryption != "" && !errors.As(err, &unsupported) {
			t.Fatalf("%s: %v", name, err)
		}
		_, command, _ := strings.Cut(err.Error(), "`")
		command, _, _ = strings.Cut(command, "`")
		must.Run(t, "", "sh", "-c", "cd "+shell.Quote(dir)+" && "+strings.TrimSuffix(command, "NEW")+shell.Quote(converted))
		if h := read(converted); h.Crypt != image.CryptLUKS {
			t.Errorf("%s: converted to %q by %s", name, h.Crypt, command)
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
		"encrypted, and there is no header":    {encrypted, empty, everything, outcome.ErrHeaderUnusable, "has no LUKS header"},
		"encrypted, and the header is damaged": {encrypted, luks, everything, outcome.ErrHeaderUnusable, "cannot be read"},
	} {
		disk, err := diskxml.ParseDisk([]byte(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/image'>` + c.encryption +
			`</source><target dev='vdb' bus='virtio'/></disk>`))
		if err != nil {
			t.Fatal(err)
		}
		l := &layerCheck{Candidate: &Candidate{Disk: disk}, disk: disk}
		_, err = l.content(memory{bytes.NewReader(c.image)}, c.depth)
		var refused *outcome.PreflightError
		switch {
		case c.cause == nil && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.cause != nil && (!errors.As(err, &refused) || !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v", name, err)
		}
		if c.encryption == plain {
			if _, err := l.content(failing{memory{bytes.NewReader(empty)}}, c.depth); !errors.Is(err, errRead) || errors.As(err, &refused) {
				t.Errorf("%s: an image that cannot be read: %v", name, err)
			}
		}
	}
}
