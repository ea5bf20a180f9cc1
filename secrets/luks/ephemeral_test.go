package luks_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/twofish" //nolint:staticcheck // old, but existing volumes use it
	"golang.org/x/crypto/xts"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// createLUKS creates an image with QEMU.
func createLUKS(t testing.TB, options string) string {
	t.Helper()
	must.Have(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "image")
	run(t, "qemu-img", "create", "-f", "luks", "--object", secretFile(t, []byte(passphrase)), "-o", "key-secret=s,iter-time=10,"+options, path, "1M")
	return path
}

func secretFile(t testing.TB, value []byte) string {
	t.Helper()
	return "secret,id=s,file=" + must.File(t, value)
}

// volume has QEMU's arguments for opening a volume, and the directory of QEMU's
// programs; if dir is empty, they are found in PATH.
type volume struct{ secret, node, dir string }

func (v volume) write(t *testing.T, pattern byte, off int) {
	t.Helper()
	run(t, filepath.Join(v.dir, "qemu-io"), "--object", v.secret, "-c", fmt.Sprintf("write -P %d %d 64k", pattern, off), v.node)
}

func (v volume) read(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "plain")
	run(t, filepath.Join(v.dir, "qemu-img"), "convert", "--object", v.secret, "-O", "raw", v.node, out)
	data := must.Get(os.ReadFile(out))(t)
	return data
}

// uuid returns the UUID that QEMU reports for the open volume.
func (v volume) uuid(t *testing.T) string {
	t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				UUID string `json:"uuid"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	out := run(t, filepath.Join(v.dir, "qemu-img"), "info", "--output", "json", "--object", v.secret, v.node)
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return info.Specific.Data.UUID
}

// original returns the volume of an image with its own header.
func original(t *testing.T, path string) volume {
	return embedded(t, []byte(passphrase), path)
}

// embedded returns the volume of an image with the header in it.
func embedded(t *testing.T, passphrase []byte, path string) volume {
	t.Helper()
	return volume{secretFile(t, passphrase), fmt.Sprintf(`json:{"driver":"luks","key-secret":"s","file":{"driver":"file","filename":%q}}`, path), ""}
}

// ephemeral returns the volume of a payload with the ephemeral header of the key.
func ephemeral(t *testing.T, key *luks.VolumeKey, path string) volume {
	t.Helper()
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	return volume{secretFile(t, must.Use(t, e.Passphrase())), fmt.Sprintf(`json:{"driver":"luks","key-secret":"s","header":{"driver":"file","filename":%q},"file":{"driver":"file","filename":%q}}`,
		must.File(t, must.Use(t, e)), path), ""}
}

// decrypt is an independent implementation of the encryptions, for payloads.
func decrypt(t *testing.T, encryption string, key, data []byte) []byte {
	t.Helper()
	newBlock := aes.NewCipher
	if strings.HasPrefix(encryption, "twofish-") {
		newBlock = func(key []byte) (cipher.Block, error) { return twofish.NewCipher(key) }
	}
	block := func(key []byte) cipher.Block {
		b := must.Get(newBlock(key))(t)
		return b
	}
	out := make([]byte, len(data))
	for n := range len(data) / 512 {
		to, from := out[n*512:][:512], data[n*512:][:512]
		if strings.Contains(encryption, "-xts-") {
			c := must.Get(xts.NewCipher(newBlock, key))(t)
			c.Decrypt(to, from, uint64(n))
			continue
		}
		iv := make([]byte, 16)
		binary.LittleEndian.PutUint64(iv, uint64(n))
		if strings.HasSuffix(encryption, "-essiv:sha256") {
			salt := sha256.Sum256(key)
			block(salt[:]).Encrypt(iv, iv)
		}
		cipher.NewCBCDecrypter(block(key), iv).CryptBlocks(to, from)
	}
	return out
}

// check writes through QEMU with the ephemeral header, and compares the decrypted
// payload with the written data.
func check(t *testing.T, path string, key *luks.VolumeKey) {
	t.Helper()
	checkIn(t, ephemeral(t, key, path), path, key)
}

// checkIn is check for an image that QEMU opens with the arguments of v.
func checkIn(t *testing.T, v volume, path string, key *luks.VolumeKey) {
	t.Helper()
	before := must.Get(os.ReadFile(path))(t)
	v.write(t, 0x5a, 0)
	v.write(t, 0xa5, 900<<10)
	after := must.Get(os.ReadFile(path))(t)
	off := key.PayloadOffset()
	if !bytes.Equal(before[:off], after[:off]) {
		t.Error("the original header was overwritten")
	}
	plain := decrypt(t, key.Encryption(), must.Use(t, key), after[off:])
	if !bytes.Equal(plain[:64<<10], bytes.Repeat([]byte{0x5a}, 64<<10)) || !bytes.Equal(plain[900<<10:964<<10], bytes.Repeat([]byte{0xa5}, 64<<10)) {
		t.Errorf("%s: QEMU wrote different data", key.Encryption())
	}
	if read := v.read(t); !bytes.Equal(read, plain) {
		t.Errorf("%s: QEMU reads different data, of %d bytes instead of %d", key.Encryption(), len(read), len(plain))
	}
}

// Volumes are read and written with their own and with the ephemeral header. QEMU
// creates those that cryptsetup cannot create without the kernel: few, because it
// benchmarks the processor for a second each time.
func TestEphemeralHeaderInQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io")
	ofCryptsetup := func(cipher, bits string) func(*testing.T) string {
		return func(t *testing.T) string {
			return luksFormat(t, 4<<20, "--type", "luks1", "--cipher", cipher, "--key-size", bits)
		}
	}
	ofQEMU := func(options string) func(*testing.T) string {
		return func(t *testing.T) string { return createLUKS(t, options) }
	}
	for name, create := range map[string]func(t *testing.T) string{
		"aes-xts-plain64 512":          ofCryptsetup("aes-xts-plain64", "512"),
		"aes-xts-plain 256":            ofCryptsetup("aes-xts-plain", "256"),
		"aes-cbc-plain 128":            ofCryptsetup("aes-cbc-plain", "128"),
		"aes-cbc-plain64 256":          ofCryptsetup("aes-cbc-plain64", "256"),
		"aes-cbc-essiv:sha256 128":     ofCryptsetup("aes-cbc-essiv:sha256", "128"),
		"aes-xts-plain64 384":          ofQEMU("cipher-alg=aes-192,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha512"),
		"twofish-xts-plain 384":        ofQEMU("cipher-alg=twofish-192,cipher-mode=xts,ivgen-alg=plain"),
		"twofish-cbc-essiv:sha256 128": ofQEMU("cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := create(t)
			own := original(t, path)
			own.write(t, 0x11, 512<<10)
			h := open(t, path)
			key := unlock(t, h, passphrase)
			if shown := ephemeral(t, key, path).uuid(t); shown != h.UUID || shown == "" {
				t.Errorf("QEMU says that %q is open, not %q", shown, h.UUID)
			}
			if got := fmt.Sprintf("%s %d", key.Encryption(), key.Len()*8); got != name {
				t.Error(got)
			}
			check(t, path, key)
			data := must.Get(os.ReadFile(path))(t)
			if !bytes.Equal(own.read(t), decrypt(t, key.Encryption(), must.Use(t, key), data[key.PayloadOffset():])) {
				t.Error("the original header reads different data")
			}
			viaEphemeral(t, key)
		})
	}
}

// Volumes that QEMU cannot open without an ephemeral header.
func TestLUKS2InQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io")
	format := []string{"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2"}
	for name, args := range map[string][]string{
		"xts": nil, "cbc": {"--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"}, "blake2": {"--hash", "blake2b-512"},
		"offset 5 MiB": {"--offset", "10240", "--luks2-keyslots-size", "1m"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := int64(17 << 20)
			if name == "offset 5 MiB" {
				size = 6 << 20
			}
			path := luksFormat(t, size, slices.Concat(format, args)...)
			check(t, path, unlock(t, open(t, path), passphrase))
		})
	}
}

// A header in one file, with the payload at the start of another.
func TestDetachedLUKS2InQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io", "cryptsetup")
	header, payload := must.File(t, make([]byte, 17<<20)), must.File(t, make([]byte, 1<<20))
	run(t, "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", "-", "--offset", "0", "--header", header, payload)
	key := unlock(t, open(t, header), passphrase)
	if !bytes.Equal(must.Use(t, key), dumpKey(t, header)) {
		t.Error("not the key that cryptsetup finds")
	}
	check(t, payload, key)
}

// The payload begins where the key material of a LUKS1 header ends, as in headers from
// the days of LUKS 1.0, without room for the alignment that QEMU needs.
func TestTightHeader(t *testing.T) {
	t.Parallel()
	b := synthetic()
	for i := range luks.Slots {
		binary.BigEndian.PutUint32(b[208+48*i+40:], uint32(2+500*i))
	}
	for sectors, usable := range map[uint32]bool{2 + 500*8: false, 7 + 504*8: false, 8 + 504*8: true, 0: true} {
		binary.BigEndian.PutUint32(b[104:], sectors)
		h, err := luks.ReadHeader(bytes.NewReader(b))
		if err != nil || (h.Usable() == nil) != usable || !usable && !strings.Contains(h.Usable().Error(), fmt.Sprintf("begins at sector %d, too early", sectors)) {
			t.Errorf("payload at sector %d: %v, %v", sectors, err, h.Usable())
		}
	}
}

// QEMU reports the UUID of the original header for an open volume.
func TestUUIDOfEphemeralHeader(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--type", "luks1"},
		{"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2"},
	} {
		path := luksFormat(t, 18<<20, args...)
		original := must.Get(os.ReadFile(path))(t)
		for uuid, kept := range map[string]bool{
			"5E7C1F9A-3b0d-4c56-9a55-0d41a2c1f3e7":   true,
			"":                                       false,
			"backup":                                 false,
			"5e7c1f9a3b0d4c569a550d41a2c1f3e7":       false, // a UUID, but not in the form of LUKS
			"5e7c1f9a-3b0d-4c56-9a55-0d41a2c1f3ez":   false, // not a hexadecimal digit
			"{5e7c1f9a-3b0d-4c56-9a55-0d41a2c1f3e7}": false,
		} {
			b := bytes.Clone(original)
			clear(b[168:208])
			copy(b[168:208], uuid)
			if b[7] == 2 {
				// The second copy keeps its UUID, so it must not be the newer copy.
				binary.BigEndian.PutUint64(b[16:], binary.BigEndian.Uint64(b[16:])+1)
				checksum(b, 0)
			}
			h := must.Get(luks.ReadHeader(bytes.NewReader(b)))(t)
			e := must.Get(luks.Ephemeral(unlock(t, h, passphrase)))(t)
			made, err := luks.ReadHeader(bytes.NewReader(must.Use(t, e)))
			e.Wipe()
			must.OK(t, err)
			if h.UUID != uuid || len(made.UUID) != 36 || (made.UUID == uuid) != kept {
				t.Errorf("%s: the ephemeral header of %q has %q", args[1], uuid, made.UUID)
			}
		}
	}
}
