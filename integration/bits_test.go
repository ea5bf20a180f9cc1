package integration

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// format is a volume format of cryptsetup.
type format struct {
	name   string
	kind   peer.VolumeKind
	format []string // arguments of luksFormat
}

// chaining is the mode of the cipher: xts, or cbc with ESSIV.
func (f format) chaining() string {
	if slices.Contains(f.format, "aes-cbc-essiv:sha256") {
		return "cbc"
	}
	return "xts"
}

// formats returns cryptsetup's formats under test. LUKS2 has sectors of 512 bytes only on request.
func formats() []format {
	quick := []string{"--pbkdf-force-iterations", "1000"}
	luks1 := append([]string{"--type", "luks1"}, quick...)
	luks2 := []string{"--type", "luks2", "--sector-size", "512"}
	pbkdf2 := slices.Concat(luks2, []string{"--pbkdf", "pbkdf2"}, quick)
	argon2 := slices.Concat(luks2, []string{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "65536", "--pbkdf-parallel", "2"})
	return []format{
		{"LUKS1 detached", peer.DetachedRaw, luks1},
		{"LUKS1 embedded, key of 256 bits", peer.EmbeddedLUKS, append(luks1, "--key-size", "256")},
		{"LUKS1 detached, aes-cbc-essiv", peer.DetachedRaw, append(luks1, "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")},
		{"LUKS2 detached, pbkdf2", peer.DetachedRaw, pbkdf2},
		{"LUKS2 embedded, argon2id", peer.EmbeddedLUKS, argon2},
		{"LUKS2 over qcow2, argon2id", peer.DetachedQcow2, argon2},
		{"LUKS2 embedded, aes-cbc-essiv", peer.EmbeddedLUKS, append(pbkdf2, "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")},
	}
}

// TestBitByBit has a guest write through an ephemeral header, and decrypts the payload without QEMU, with
// cryptsetup's volume key. Where QEMU can read the original header, it reads the same. The original header
// is not changed.
func TestBitByBit(t *testing.T) {
	t.Parallel()
	q := booted(bounded(t), t, peer.Options{RootPorts: 2})
	for _, f := range formats() {
		t.Run(f.name, func(t *testing.T) {
			bitByBit(bounded(t), t, q, peer.NewFormatted(t, f.kind, f.format...), f.chaining())
		})
	}
}

func bitByBit(ctx context.Context, t *testing.T, q *peer.QEMU, v *peer.Volume, chaining string) {
	t.Helper()
	before, header := stateOf(ctx, t, q), headerBytes(t, v)
	p := newPlug(t, q, v, "vdb", "virtio", "")
	if report := p.attach(ctx, t); report.Unlock != "ephemeral" {
		t.Fatalf("attach reports %+v", report)
	}
	dev := p.inGuest(ctx, t)
	pattern := []byte("not a bit of this may be another one; ")
	mibs := []int{0, 7, peer.VolumeSize/peer.MiB - 1}
	p.write(ctx, t, dev, mibs, pattern)
	// An unwritten block reads as the payload decrypted with the key.
	unwritten := must.Get(q.Guest().ReadHash(ctx, dev, 3, 1))(t)
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)
	if !bytes.Equal(header, headerBytes(t, v)) {
		t.Error("the original header has been changed")
	}

	key := must.Get(v.VolumeKey(ctx))(t)
	payload := rawPayload(ctx, t, v)
	for _, m := range mibs {
		at := int64(m) * peer.MiB
		plain := decrypted(t, key, chaining, payload[v.Offset+at:v.Offset+at+peer.MiB], uint64(at/512))
		if !bytes.Equal(plain, peer.Pattern(pattern)) {
			t.Errorf("MiB %d decrypts to something else than the guest wrote, from byte %d", m, differsAt(plain, peer.Pattern(pattern)))
		}
		if v.IsLUKS2() {
			continue // QEMU's tools do not read it
		}
		if through, err := v.ReadThrough(ctx, at, peer.MiB); err != nil || !bytes.Equal(through, plain) {
			t.Errorf("through the original header, MiB %d reads otherwise; error %v", m, err)
		}
	}
	plain := decrypted(t, key, chaining, payload[v.Offset+3*peer.MiB:v.Offset+4*peer.MiB], 3*peer.MiB/512)
	if v.Kind != peer.DetachedQcow2 && peer.HashOf(plain) != unwritten { // qcow2 knows what was never written
		t.Error("the guest does not read the unwritten blocks as decrypted with the key")
	}
}

// headerBytes returns the content of the file with the volume's LUKS header.
func headerBytes(t *testing.T, v *peer.Volume) []byte {
	t.Helper()
	content := must.Get(os.ReadFile(cmp.Or(v.Header, v.Payload)))(t)
	if v.Header == "" {
		content = content[:v.Offset]
	}
	return content
}

// rawPayload returns the content of the payload without its format.
func rawPayload(ctx context.Context, t *testing.T, v *peer.Volume) []byte {
	t.Helper()
	path := v.Payload
	if v.Format != "raw" {
		path = filepath.Join(t.TempDir(), "raw")
		command(ctx, t, "qemu-img", "convert", "-f", v.Format, "-O", "raw", v.Payload, path)
	}
	content := must.Get(os.ReadFile(path))(t)
	if want := v.Offset + v.Size; int64(len(content)) < want {
		t.Fatalf("the payload has %d bytes, want %d", len(content), want)
	}
	return content
}

// decrypted decrypts sectors of 512 bytes, from number first, as dm-crypt documents xts-plain64 and
// cbc-essiv:sha256.
func decrypted(t *testing.T, key []byte, chaining string, ciphertext []byte, first uint64) []byte {
	t.Helper()
	const sector = 512
	plain := make([]byte, len(ciphertext))
	if chaining == "xts" {
		c := must.Get(xts.NewCipher(aes.NewCipher, key))(t)
		for i := 0; i < len(plain); i += sector {
			c.Decrypt(plain[i:i+sector], ciphertext[i:i+sector], first+uint64(i/sector))
		}
		return plain
	}
	salt := sha256.Sum256(key)
	tweak, err1 := aes.NewCipher(salt[:])
	block, err2 := aes.NewCipher(key)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for i := 0; i < len(plain); i += sector {
		iv := make([]byte, aes.BlockSize)
		binary.LittleEndian.PutUint64(iv, first+uint64(i/sector))
		tweak.Encrypt(iv, iv)
		cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain[i:i+sector], ciphertext[i:i+sector])
	}
	return plain
}

func differsAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
