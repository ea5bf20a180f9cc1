package check

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
)

// memory is an image in memory.
type memory struct{ *bytes.Reader }

func (m memory) Size() int64 { return m.Reader.Size() }
func (memory) Close() error  { return nil }

// failing is an image that cannot be read.
type failing struct{ memory }

var errRead = errors.New("the server has gone")

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errRead }

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
