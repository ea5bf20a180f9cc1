package masterkey

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// TestQEMU lets QEMU decrypt sealed values: a second key with special bytes, which
// in turn encrypts the passphrase of a volume. Only the exact passphrase opens it.
func TestQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must.Write(t, path, content)
		return path
	}
	run := func(name string, args ...string) ([]byte, error) {
		return exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	}
	passphrase := []byte("first line\nsecond, ü\n")
	image := must.LUKS(t, passphrase, 3<<20)
	first := bytes.Repeat([]byte{0, '\n', 0xff, 'x'}, Size/4)
	second := bytes.Repeat([]byte{0, 0, 0x80, '\r'}, Size/4)
	open := func(path string) *Key {
		f := must.Get(os.Open(path))(t)
		defer func() { _ = f.Close() }() // only read
		k := must.Get(Read(f))(t)
		t.Cleanup(k.Wipe)
		return k
	}
	firstPath := file("first", first)
	outer, inner := open(firstPath), open(file("second", second))
	object := func(id, keyID string, k *Key, value []byte) string {
		s := must.Get(k.Seal(value))(t)
		return fmt.Sprintf(`{"qom-type":"secret","id":%q,"data":%q,"keyid":%q,"iv":%q,"format":"base64"}`, id, s.Data, keyID, s.IV)
	}
	for name, c := range map[string]struct {
		value []byte
		opens bool
	}{"right": {passphrase, true}, "without its last newline": {bytes.TrimSuffix(passphrase, []byte("\n")), false}} {
		out, err := run("qemu-io", "--object", "secret,id="+ID+",format=raw,file="+firstPath,
			"--object", object("key", ID, outer, second), "--object", object("pass", "key", inner, c.value),
			"--image-opts", "-c", "read 0 512", "driver=luks,key-secret=pass,file.driver=file,file.filename="+image)
		if opened := err == nil && bytes.Contains(out, []byte("read 512/512")); opened != c.opens {
			t.Errorf("the passphrase, %s: opens %v, error %v: %s", name, opened, err, out)
		}
	}
}
