package hotplug_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/masterkey"
)

// masterKey writes a master key and returns QEMU's argument for it.
func masterKey(t *testing.T) (key []byte, path, object string) {
	t.Helper()
	key = []byte("0123456789abcdef\x00\xff\nGHIJKLMNOPQRS")
	path = filepath.Join(t.TempDir(), "master-key.aes")
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	return key, path, `{"qom-type":"secret","id":"masterKey0","format":"raw","file":"` + path + `"}`
}

// sentSecret is the object-add of a secret, as the trace shows it.
type sentSecret struct {
	Type   string `json:"qom-type"`
	ID     string
	Data   string
	Format string
	KeyID  string
	IV     string
}

// decrypt returns the value that QEMU decrypts.
func (s sentSecret) decrypt(t *testing.T, key []byte) string {
	t.Helper()
	text, err1 := base64.StdEncoding.DecodeString(s.Data)
	iv, err2 := base64.StdEncoding.DecodeString(s.IV)
	block, err3 := aes.NewCipher(key)
	if err1 != nil || err2 != nil || err3 != nil || len(iv) != aes.BlockSize || len(text) == 0 || len(text)%aes.BlockSize != 0 {
		t.Fatalf("it is no ciphertext: %+v", s)
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(text, text)
	return string(text[:len(text)-int(text[len(text)-1])])
}

// keyed is a VM whose log and secrets on the wire are kept.
type keyed struct {
	*hotplug.VM
	hook *logtest.Hook

	mu   sync.Mutex
	sent []sentSecret
}

// startKeyed starts a VM with further arguments and connects to it.
func startKeyed(ctx context.Context, t *testing.T, extra ...string) *keyed {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: make setup")
	}
	sockets, stop, err := startQEMU(t.TempDir(), extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	k := &keyed{}
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	k.hook = hook
	dial := func(ctx context.Context) (*qmp.Client, error) {
		return qmp.Dial(ctx, sockets[0], qmp.WithTrace(k.record))
	}
	if k.VM, err = hotplug.Connect(ctx, dial, hotplug.Options{Log: log, LockDir: t.TempDir(), RunDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // the VM ends
	return k
}

func (k *keyed) record(e qmp.TraceEntry) {
	var c struct {
		Execute   string
		Arguments sentSecret
	}
	if json.Unmarshal(e.JSON, &c) == nil && c.Execute == "object-add" && c.Arguments.Type == "secret" {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.sent = append(k.sent, c.Arguments)
	}
}

// secrets returns the secrets that were sent to QEMU.
func (k *keyed) secrets() []sentSecret {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent
}

// said returns the log as text.
func (k *keyed) said() string {
	var b strings.Builder
	for _, e := range k.hook.AllEntries() {
		b.WriteString(e.Level.String() + ": " + e.Message + "\n")
	}
	return b.String()
}

// TestMasterKey: by each unlock method, secrets for a QEMU with a master key are
// encrypted under it, and QEMU opens the volume with them.
func TestMasterKey(t *testing.T) {
	t.Parallel()
	for mode, want := range map[hotplug.UnlockPolicy]int{hotplug.UnlockAuto: 1, hotplug.UnlockQEMU: 1, hotplug.UnlockExternal: 0} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			master, path, object := masterKey(t)
			v := startKeyed(ctx, t, "-object", object)
			before := state(ctx, t, v.VM)
			at, err := v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{Unlock: mode})
			if err != nil || at.Size != 8<<20 {
				t.Fatalf("attached: %+v, %v", at, err)
			}
			if n := len(v.secrets()); n != want {
				t.Fatalf("%d secrets went to QEMU, want %d", n, want)
			}
			for _, s := range v.secrets() {
				if s.KeyID != masterkey.ID || s.Format != "base64" {
					t.Errorf("it is not encrypted: %+v", s)
				}
				value := s.decrypt(t, master)
				if _, err := hex.DecodeString(value); value != key && (mode != hotplug.UnlockAuto || err != nil || value == "") {
					t.Errorf("QEMU got %q", value)
				}
			}
			if said := v.said(); strings.Contains(said, "encrypted under its master key masterKey0") != (want > 0) {
				t.Errorf("said: %s", said)
			}
			if after := state(ctx, t, v.VM); mode != hotplug.UnlockExternal && !reflect.DeepEqual(before.Objects, after.Objects) {
				t.Errorf("objects before the attach %v, after %v", before.Objects, after.Objects)
			}
			// A key that is removed later does no harm.
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
				t.Error(err)
			}
			if after := state(ctx, t, v.VM); !reflect.DeepEqual(before, after) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
		})
	}
}

// TestMasterKeyNot: an unusable key does not stop an attach. The secret is sent in base64
// then, and the log says why.
func TestMasterKeyNot(t *testing.T) {
	t.Parallel()
	move := func(path string) error { // the link is absolute, and followed in the VM's own root
		return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
	}
	for name, c := range map[string]struct {
		object string // instead of the right one
		spoil  func(path string) error
		said   string
		sealed bool
	}{
		"gone":           {spoil: os.Remove, said: "no such file"},
		"shorter":        {spoil: func(path string) error { return os.Truncate(path, 16) }, said: "it has 16 bytes"},
		"a link":         {spoil: move, said: "encrypted", sealed: true},
		"world readable": {spoil: func(path string) error { return os.Chmod(path, 0o644) }, said: "warning: every user of this host may read", sealed: true},
		"in no file":     {object: `{"qom-type":"secret","id":"masterKey0","format":"base64","data":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`, said: "is in no file"},
		"not a secret":   {object: `{"qom-type":"rng-random","id":"masterKey0","filename":"/dev/urandom"}`, said: "no object masterKey0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			_, path, object := masterKey(t)
			if c.object != "" {
				object = c.object
			}
			v := startKeyed(ctx, t, "-object", object)
			if c.spoil != nil {
				if err := c.spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}); err != nil {
				t.Fatal(err)
			}
			if got := v.secrets(); len(got) != 1 || (got[0].KeyID != "") != c.sealed {
				t.Errorf("secrets that went to QEMU: %+v", got)
			}
			if said := v.said(); !strings.Contains(said, c.said) || strings.Contains(said, "in base64") == c.sealed {
				t.Errorf("said: %s", said)
			}
		})
	}
}
