package luks_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

const (
	fastLUKS1, fastLUKS2 = "--type=luks1", "--type=luks2"
	backupSize           = 24 << 20
)

// volumeOf returns a new volume and the path of its backup, as cryptsetup makes them.
func volumeOf(t *testing.T, options ...string) (content []byte, backup *luks.Backup) {
	t.Helper()
	path := must.LUKS(t, key, backupSize, append(options, "--sector-size=512", "--pbkdf=pbkdf2")...)
	return must.Get(os.ReadFile(path))(t), backupOf(t, path)
}

func backupOf(t *testing.T, path string) *luks.Backup {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup")
	must.Run(t, "", "cryptsetup", "luksHeaderBackup", path, "--header-backup-file", to)
	return must.Get(luks.ReadBackup(bytes.NewReader(must.Get(os.ReadFile(to))(t))))(t)
}

const key = "backup"

// TestBackupCompare: a backup by cryptsetup is compared with a header that is damaged in one
// place after the other.
func TestBackupCompare(t *testing.T) {
	t.Parallel()
	const all = 2 << 20 // beyond the key material of LUKS1
	type damage struct {
		start, end int
		match      luks.Match
		damaged    string // "" for anything
	}
	for version, damages := range map[string]map[string]damage{
		fastLUKS1: {
			"nothing":            {0, 0, luks.MatchIntact, ""},
			"the magic":          {0, 6, luks.MatchDamaged, "the magic and version"},
			"the version":        {6, 8, luks.MatchDamaged, "the magic and version"},
			"the cipher":         {8, 40, luks.MatchDamaged, "the cipher and hash"},
			"the payload offset": {104, 108, luks.MatchDamaged, "the payload offset"},
			"the digest":         {112, 168, luks.MatchDamaged, "the digest of the volume key"},
			"the UUID":           {168, 208, luks.MatchDamaged, "the UUID"},
			"the key slots":      {208, 592, luks.MatchDamaged, "key slot 0"},
			"the salt of a slot": {216, 248, luks.MatchDamaged, "key slot 0"},
			"key material":       {4096, 8192, luks.MatchDamaged, "the key material of slot 0"},
			"its first sector":   {0, 512, luks.MatchDamaged, "the digest of the volume key"},
			"its first page":     {0, 4096, luks.MatchDamaged, "key slot 0"},
			"everything":         {0, all, luks.MatchUnknown, ""},
		},
		fastLUKS2: {
			"nothing":             {0, 0, luks.MatchIntact, ""},
			"the magic":           {0, 6, luks.MatchDamaged, "the first copy of the metadata"},
			"the first JSON":      {4096, 8192, luks.MatchIntact, "the first copy of the metadata"},
			"the second JSON":     {luks2Size + 4096, luks2Size + 8192, luks.MatchIntact, "the second copy of the metadata"},
			"both JSON":           {4096, luks2Size + 8192, luks.MatchDamaged, "the second copy of the metadata"},
			"both copies":         {0, 2 * luks2Size, luks.MatchDamaged, "the first copy of the metadata"},
			"key material":        {2 * luks2Size, 3 * luks2Size, luks.MatchDamaged, "the key material of slot 0"},
			"the first, with key": {0, luks2Size, luks.MatchDamaged, "the first copy of the metadata"},
			"everything":          {0, all, luks.MatchUnknown, ""},
			"all but the UUID":    {512, all, luks.MatchUnknown, ""},
		},
	} {
		content, backup := volumeOf(t, version)
		for name, d := range damages {
			for kind, fill := range map[string]func([]byte){"zeros": func(b []byte) { clear(b) }, "noise": func(b []byte) { _, _ = rand.Read(b) }} {
				image := bytes.Clone(content)
				fill(image[d.start:d.end])
				got, err := backup.Compare(bytes.NewReader(image))
				if err != nil || got.Match != d.match || got.Reason == "" && d.match != luks.MatchIntact || d.damaged != "" && !slices.Contains(got.Damaged, d.damaged) {
					t.Errorf("%s, %s in %s: %+v, %v", version, kind, name, got, err)
				}
				if name == "nothing" && len(got.Damaged) != 0 {
					t.Errorf("%s: damaged: %q", version, got.Damaged)
				}
			}
		}
		for _, short := range []int{0, 1, 600, 5000} { // an image that was cut off
			if got, err := backup.Compare(bytes.NewReader(content[:short])); err != nil || got.Match == luks.MatchIntact || got.Match == luks.MatchOther {
				t.Errorf("%s, cut off at %d: %+v, %v", version, short, got, err)
			}
		}
	}
}

// TestBackupOfAnotherVolume: a backup of another volume, and one from before a re-encryption, is
// recognised as long as the header in the image, or its UUID, can be read.
func TestBackupOfAnotherVolume(t *testing.T) {
	t.Parallel()
	for _, version := range []string{fastLUKS1, fastLUKS2} {
		content, _ := volumeOf(t, version)
		_, other := volumeOf(t, version)
		check := func(what string, b *luks.Backup, image []byte, match luks.Match, reason string) {
			t.Helper()
			got, err := b.Compare(bytes.NewReader(image))
			if err != nil || got.Match != match || !strings.Contains(got.Reason, reason) {
				t.Errorf("%s, %s: %+v, %v", version, what, got, err)
			}
		}
		check("intact", other, content, luks.MatchOther, "its UUID is")
		slots := bytes.Clone(content)
		clear(slots[208:592])
		clear(slots[luks2Size+208 : luks2Size+592])
		clear(slots[4096:8192])
		check("half readable", other, slots, luks.MatchOther, "its UUID is")

		path := must.File(t, content)
		before := backupOf(t, path)
		// Another volume key under the same UUID, as after a re-encryption.
		same := before.Header.UUID
		must.Run(t, key, "cryptsetup", "luksFormat", "--batch-mode", version, "--sector-size=512", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--uuid="+same, "--key-file=-", path)
		again := must.Get(os.ReadFile(path))(t)
		check("re-encrypted", before, again, luks.MatchOther, "re-encrypted")
		// Both copies of the metadata, or the digest and slots, are gone: only the UUID tells.
		clear(again[208:4000])
		clear(again[4096:8192])
		clear(again[luks2Size : 2*luks2Size])
		check("re-encrypted and damaged", before, again, luks.MatchUnknown, "UUID")
	}
	content, backup := volumeOf(t, fastLUKS1)
	copy(content, "LUKS\xde\xad")
	if _, err := backup.Compare(bytes.NewReader(content)); !errors.Is(err, luks.ErrReencryption) {
		t.Errorf("in re-encryption: %v", err)
	}
	if _, err := luks.ReadBackup(bytes.NewReader(content)); !errors.Is(err, luks.ErrReencryption) {
		t.Errorf("a backup in re-encryption: %v", err)
	}
}

// TestBackupOfChangedSlots: a volume whose passphrase was changed after the backup is the same
// volume, and one that got another passphrase as well has the backup's key slots.
func TestBackupOfChangedSlots(t *testing.T) {
	t.Parallel()
	for _, version := range []string{fastLUKS1, fastLUKS2} {
		content, _ := volumeOf(t, version)
		path := must.File(t, content)
		backup := backupOf(t, path)
		compare := func() luks.Comparison {
			return must.Get(backup.Compare(bytes.NewReader(must.Get(os.ReadFile(path))(t))))(t)
		}
		old := must.File(t, key)
		fast := []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--batch-mode"}
		must.Run(t, "", "cryptsetup", append(fast, "luksAddKey", path, "--key-file", old, must.File(t, "second"))...)
		if got := compare(); got.Match != luks.MatchIntact {
			t.Errorf("%s, another passphrase: %+v", version, got)
		}
		must.Run(t, "", "cryptsetup", "luksKillSlot", "--batch-mode", path, "0", "--key-file", must.File(t, "second"))
		if got := compare(); got.Match != luks.MatchDamaged || len(got.Damaged) == 0 {
			t.Errorf("%s, without the old passphrase: %+v", version, got)
		}
	}
	content, _ := volumeOf(t, fastLUKS1)
	path := must.File(t, content)
	backup := backupOf(t, path)
	must.Run(t, "", "cryptsetup", "convert", "--batch-mode", "--type", "luks2", path)
	got := must.Get(backup.Compare(bytes.NewReader(must.Get(os.ReadFile(path))(t))))(t)
	if got.Match != luks.MatchDamaged {
		t.Errorf("converted: %+v", got)
	}
}
