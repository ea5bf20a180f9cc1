package luks_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// releaseOfQEMU returns the directory with the programs of a QEMU from another
// release, which scripts/qemu-matrix.sh unpacks. A quick run skips the test unless
// they are already unpacked.
func releaseOfQEMU(t *testing.T, suite string) string {
	t.Helper()
	if os.Getenv("LUKSPLUG_LONG") != "" {
		must.Have(t, "mmdebstrap")
		out, err := exec.CommandContext(t.Context(), "../../scripts/qemu-matrix.sh", suite).Output()
		if err != nil {
			t.Fatalf("QEMU of %s: %v", suite, err)
		}
		return strings.TrimSpace(string(out))
	}
	cache := os.Getenv("LUKSPLUG_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(user, "luksplug")
	}
	found := must.Get(filepath.Glob(filepath.Join(cache, "qemu-"+suite+"-v*", "bin")))(t)
	if len(found) == 0 {
		t.Skipf("QEMU of %s has not been unpacked (make test-long does that)", suite)
	}
	return found[len(found)-1]
}

// This package and cryptsetup open images of three releases of QEMU, and each release
// opens ephemeral headers.
func TestReleasesOfQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "qemu-img", "qemu-io")
	for _, suite := range []string{"", "bookworm", "sid"} { // the installed one, 7.2, 11
		t.Run("QEMU "+suite, func(t *testing.T) {
			t.Parallel()
			dir := ""
			if suite != "" {
				dir = releaseOfQEMU(t, suite)
			}
			qemuImg := filepath.Join(dir, "qemu-img")
			t.Log(run(t, qemuImg, "--version"))
			// "" means QEMU's defaults.
			for _, options := range []string{"", ",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1"} {
				path := filepath.Join(t.TempDir(), "image")
				run(t, qemuImg, "create", "-f", "luks", "--object", secretFile(t, []byte(passphrase)), "-o", "key-secret=s,iter-time=10"+options, path, "1M")
				h := open(t, path)
				if err := h.QEMUOpens(); err != nil {
					t.Error(err)
				}
				sameKey(t, path)
				key := unlock(t, h, passphrase)
				v, copied := spliced(t, key, path)
				v.dir = dir
				if shown := v.uuid(t); shown != h.UUID {
					t.Errorf("QEMU says that %q is open, not %q", shown, h.UUID)
				}
				checkIn(t, v, copied, key)
				// QEMU supports detached headers since 9.0.
				if suite != "bookworm" {
					v := ephemeral(t, key, path)
					v.dir = dir
					checkIn(t, v, path, key)
				}
			}
		})
	}
}

// spliced returns a copy of an image in which the ephemeral header overwrites the
// original one: a QEMU without detached headers can open it.
func spliced(t *testing.T, key *luks.VolumeKey, path string) (volume, string) {
	t.Helper()
	data := must.Get(os.ReadFile(path))(t)
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	copy(data, must.Use(t, e))
	path = must.File(t, data)
	return embedded(t, must.Use(t, e.Passphrase()), path), path
}

// A detached header created by QEMU, which supports that since 10.0.13.
func TestDetachedHeaderOfQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	dir := releaseOfQEMU(t, "sid")
	header, payload := filepath.Join(t.TempDir(), "header"), must.File(t, make([]byte, 1<<20))
	run(t, filepath.Join(dir, "qemu-img"), "create", "-f", "luks", "--object", secretFile(t, []byte(passphrase)), "-o", "key-secret=s,iter-time=10,detached-header=true", header, "1M")
	h := open(t, header)
	key := unlock(t, h, passphrase)
	if h.PayloadOffset() != 0 || !bytes.Equal(must.Use(t, key), dumpKey(t, header)) {
		t.Errorf("payload at %d, or not the key that cryptsetup finds", h.PayloadOffset())
	}
	v := ephemeral(t, key, payload)
	v.dir = dir
	checkIn(t, v, payload, key)
}
