package luks_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// TestNoPassphraseIsLeftInMemory: after a header was unlocked, or was not, no copy of the
// passphrase is in the memory of the process. The volumes are cryptsetup's.
func TestNoPassphraseIsLeftInMemory(t *testing.T) {
	const header = "LUKSPLUG_MEMTEST_HEADER"
	for name, args := range map[string][]string{
		"LUKS1":                   {"--type", "luks1", "--pbkdf-force-iterations", "1000"},
		"LUKS1 with sha512":       {"--type", "luks1", "--pbkdf-force-iterations", "1000", "--hash", "sha512"},
		"LUKS2 with Argon2id":     {"--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "32", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"},
		"LUKS2 with four threads": {"--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "32768", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "4"},
		"LUKS2 with Argon2i":      {"--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2i", "--pbkdf-memory", "32", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"},
		"LUKS2 with PBKDF2":       {"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			must.Have(t, "cryptsetup")
			if s := memtest.Child(); s != nil {
				f := must.Get(os.Open(os.Getenv(header)))(t)
				defer func() { _ = f.Close() }() // only read
				h := must.Get(luks.ReadHeader(f))(t)
				passphrase := secrets.New(s.Copy())
				must.OK(t, passphrase.Use(func(b []byte) error {
					key, err := h.Unlock(t.Context(), b)
					key.Wipe()
					return err
				}))
				must.OK(t, passphrase.Use(func(b []byte) error {
					if _, err := h.Unlock(t.Context(), b[1:]); !errors.Is(err, luks.ErrWrongPassphrase) {
						return errors.Join(errors.New("a part of the passphrase"), err)
					}
					return nil
				}))
				passphrase.Wipe()
				s.Nothing(t, "after unlocking")
				return
			}
			v, path := memtest.NewValue(), filepath.Join(t.TempDir(), "header")
			must.Write(t, path, make([]byte, 20<<20))
			cmd := exec.CommandContext(t.Context(), "cryptsetup", append([]string{"luksFormat", "-q", "--key-file", "-"}, append(args, path)...)...)
			cmd.Stdin = strings.NewReader(string(v.Bytes))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			v.Run(t, header+"="+path)
		})
	}
}
