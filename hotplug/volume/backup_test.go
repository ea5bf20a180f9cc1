package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// made makes a volume, and returns its passphrase and where its header begins.
func made(t *testing.T, r volume.Request) (v *volume.Volume, passphrase *secrets.Secret, file string, offset int64) {
	t.Helper()
	store, keys := keysIn(t)
	v = must.Get(volume.Create(t.Context(), r, keys))(t)
	passphrase = must.Get(store.Lookup(t.Context(), v.Secret.Reference()))(t)
	t.Cleanup(passphrase.Wipe)
	switch {
	case v.Header != "":
		return v, passphrase, v.Header, 0
	case v.Format == "qcow2":
		return v, passphrase, v.Path, must.Get(image.Probe(v.Path))(t).Qcow2.LUKSOffset
	}
	return v, passphrase, v.Path, 0
}

// damage overwrites a part of a file.
func damage(t *testing.T, path string, at, length int64) {
	t.Helper()
	f := must.Get(os.OpenFile(path, os.O_WRONLY, 0))(t)
	_, err := f.WriteAt(bytes.Repeat([]byte("damage! "), int(length)/8+1)[:length], at)
	must.OK(t, err, f.Close())
}

// TestHeaderBackup: a backup of every layout restores the header after each part of it was damaged.
func TestHeaderBackup(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "cryptsetup", "wipefs")
	for name, r := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, r)
			v, passphrase, file, offset := made(t, r)
			dir := t.TempDir()
			backup := filepath.Join(dir, "backup")
			h := must.Get(volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: v.Path, Header: v.Header, To: backup, Passphrase: passphrase}))(t)
			if h.UUID != v.UUID {
				t.Errorf("the UUID is %s", h.UUID)
			}
			wantMode(t, backup, 0o600)
			whole := must.Get(os.ReadFile(file))(t)
			if _, err := volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: v.Path, Header: v.Header, To: backup, Passphrase: passphrase}); !errors.Is(err, volume.ErrExists) {
				t.Errorf("over a file: %v", err)
			}
			restoring := volume.Restoring{Path: v.Path, Header: v.Header, Backup: backup, Passphrase: passphrase}
			parts := map[string][2]int64{"the beginning": {0, 512}, "the digest": {112, 40}, "the key material": {4096, 200 << 10}, "the key slot": {208, 48}}
			if v.LUKS.Version == 2 {
				parts = map[string][2]int64{"the beginning": {0, 512}, "the first copy": {0, 16 << 10}, "both copies": {0, 32 << 10}, "the key material": {32 << 10, 200 << 10}}
			}
			for what, p := range parts {
				damage(t, file, offset+p[0], p[1])
				damaged := must.Get(os.ReadFile(file))(t)
				restored, err := volume.RestoreHeader(t.Context(), restoring)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if restored.LUKS.UUID != v.UUID || !bytes.Equal(must.Get(os.ReadFile(file))(t), whole) {
					t.Errorf("%s: %+v, or another header", what, restored)
				}
				kept := must.Get(os.ReadFile(restored.Replaced))(t)
				if !bytes.Equal(kept, damaged[offset:offset+int64(len(kept))]) {
					t.Errorf("%s: the old header is not kept", what)
				}
				must.OK(t, os.Remove(restored.Replaced))
			}
			wantFiles(t, dir, backup)
		})
	}
}

// TestHeaderBackupOfCryptsetup: cryptsetup restores a backup of luksplug's, and the reverse.
func TestHeaderBackupOfCryptsetup(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("LUKS%d", version), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			v, passphrase, file, _ := made(t, volume.Request{Path: filepath.Join(dir, "volume"), Size: size, LUKS: luks.Format{Version: version}})
			whole := must.Get(os.ReadFile(file))(t)
			ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
			must.Get(volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: v.Path, To: ours, Passphrase: passphrase}))(t)
			must.Run(t, "", "cryptsetup", "luksHeaderBackup", "--batch-mode", "--header-backup-file", theirs, file)
			damage(t, file, 0, 64<<10)
			must.Run(t, "", "cryptsetup", "luksHeaderRestore", "--batch-mode", "--header-backup-file", ours, file)
			if !bytes.Equal(must.Get(os.ReadFile(file))(t), whole) {
				t.Error("cryptsetup has restored another header")
			}
			damage(t, file, 0, 64<<10)
			must.Get(volume.RestoreHeader(t.Context(), volume.Restoring{Path: file, Backup: theirs, Passphrase: passphrase}))(t)
			key := must.File(t, must.Use(t, passphrase))
			must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", key, file)
		})
	}
}

// TestRestoreRefuses: a header of another volume, a wrong passphrase, or a volume in use changes nothing.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	all := layouts(t)
	v, passphrase, file, _ := made(t, all["raw"])
	other, otherPassphrase, _, _ := made(t, volume.Request{Path: filepath.Join(t.TempDir(), "other"), Size: size})
	detached, detachedPassphrase, _, _ := made(t, all["raw detached"])
	dir := t.TempDir()
	backupOf := func(v *volume.Volume, p *secrets.Secret) string {
		path := filepath.Join(dir, filepath.Base(v.Path)+v.UUID)
		must.Get(volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: v.Path, Header: v.Header, To: path, Passphrase: p}))(t)
		return path
	}
	right, wrong, headerFile := backupOf(v, passphrase), backupOf(other, otherPassphrase), backupOf(detached, detachedPassphrase)
	link := filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(v.Path, link))
	plain := filepath.Join(t.TempDir(), "plain")
	must.Write(t, plain, string(make([]byte, 32<<10))+"\x01CD001\x01")
	must.OK(t, os.Truncate(plain, 8<<20))
	vmdk := must.File(t, "KDMV"+string(make([]byte, 8<<20)))
	small := must.File(t, make([]byte, 1<<20))
	noise := must.File(t, strings.Repeat("x", 1<<20))
	before, files := must.Get(os.ReadFile(file))(t), len(must.Get(os.ReadDir(dir))(t))
	for what, c := range map[string]struct {
		r    volume.Restoring
		want error
	}{
		"another volume":       {volume.Restoring{Path: v.Path, Backup: wrong, Passphrase: otherPassphrase}, volume.ErrOtherVolume},
		"a wrong passphrase":   {volume.Restoring{Path: v.Path, Backup: right, Passphrase: otherPassphrase}, volume.ErrWrongPassphrase},
		"attached":             {volume.Restoring{Path: v.Path, Backup: right, Passphrase: passphrase, Attached: []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: link}}}, volume.ErrAttached},
		"no backup":            {volume.Restoring{Path: v.Path, Backup: noise, Passphrase: passphrase}, luks.ErrNotLUKS},
		"an image too small":   {volume.Restoring{Path: small, Backup: right, Passphrase: passphrase}, volume.ErrPlace},
		"a header of its own":  {volume.Restoring{Path: v.Path, Backup: headerFile, Passphrase: detachedPassphrase}, volume.ErrPlace},
		"a header file":        {volume.Restoring{Path: detached.Path, Header: detached.Header, Backup: right, Passphrase: passphrase}, volume.ErrPlace},
		"a file system":        {volume.Restoring{Path: plain, Backup: right, Passphrase: passphrase}, volume.ErrOtherVolume},
		"a vmdk":               {volume.Restoring{Path: vmdk, Backup: right, Passphrase: passphrase}, volume.ErrPlace},
		"a directory as image": {volume.Restoring{Path: dir, Backup: right, Passphrase: passphrase}, image.ErrNotImage},
	} {
		if _, err := volume.RestoreHeader(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(must.Get(os.ReadFile(file))(t), before) || len(must.Get(os.ReadDir(dir))(t)) != files {
		t.Error("a refused restore has changed something")
	}
}
