package luks_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// synthetic returns a valid LUKS1 header with payload offset 4096 sectors and slot 0
// in use, as cryptsetup writes it.
func synthetic() []byte {
	b := make([]byte, 4096*luks.SectorSize)
	copy(b, "LUKS\xba\xbe\x00\x01")
	copy(b[8:], "aes")
	copy(b[40:], "xts-plain64")
	copy(b[72:], "sha256")
	binary.BigEndian.PutUint32(b[104:], 4096)
	binary.BigEndian.PutUint32(b[108:], 64)
	binary.BigEndian.PutUint32(b[164:], 1000)
	copy(b[168:], "ebb13f6b-78f1-46bf-96db-ac9d99332160")
	for i := range luks.Slots {
		slot := b[208+48*i:]
		binary.BigEndian.PutUint32(slot, 0x0000DEAD)
		binary.BigEndian.PutUint32(slot[40:], uint32(8+504*i))
		binary.BigEndian.PutUint32(slot[44:], luks.Stripes)
	}
	binary.BigEndian.PutUint32(b[208:], 0x00AC71F3)
	binary.BigEndian.PutUint32(b[212:], 1000)
	return b
}

// luksFormat returns the path of a new volume that cryptsetup formats.
func luksFormat(t testing.TB, size int64, args ...string) string {
	t.Helper()
	return must.LUKS(t, "test passphrase", size, args...)
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return must.Run(t, "test passphrase", name, args...)
}

// dumped returns one value of luksDump's output.
func dumped(t *testing.T, dump, key string) string {
	t.Helper()
	for line := range strings.Lines(dump) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("luksDump prints no %s:\n%s", key, dump)
	return ""
}

// sameAsCryptsetup compares the parsed header with the output of cryptsetup.
func sameAsCryptsetup(t *testing.T, path string, h *luks.Header) {
	t.Helper()
	dump := run(t, "cryptsetup", "luksDump", path)
	h1 := h.LUKS1
	for key, got := range map[string]string{
		"Version": fmt.Sprint(h.Version), "Cipher name": h1.Cipher, "Cipher mode": h1.Mode, "Hash spec": h1.Hash,
		"Payload offset": fmt.Sprint(h1.PayloadSectors), "MK bits": fmt.Sprint(h1.KeyBytes * 8),
		"MK iterations": fmt.Sprint(h1.DigestIterations), "UUID": h.UUID,
		"MK digest": strings.TrimSpace(fmt.Sprintf("% x", h1.Digest[:])),
		"MK salt":   fmt.Sprintf("% x", h1.DigestSalt[:16]), // the first of two lines
	} {
		if want := dumped(t, dump, key); got != want {
			t.Errorf("%s: %s, cryptsetup says %s", key, got, want)
		}
	}
	var enabled []int
	for i, slot := range h1.Slots {
		state := dumped(t, dump, fmt.Sprintf("Key Slot %d", i))
		if state != "ENABLED" {
			continue
		}
		enabled = append(enabled, i)
		_, rest, _ := strings.Cut(dump, fmt.Sprintf("Key Slot %d:", i))
		for key, got := range map[string]string{
			"Iterations": fmt.Sprint(slot.Iterations), "Key material offset": fmt.Sprint(slot.MaterialSectors),
			"AF stripes": fmt.Sprint(slot.Stripes), "Salt": fmt.Sprintf("% x", slot.Salt[:16]),
		} {
			if want := dumped(t, rest, key); got != want {
				t.Errorf("slot %d: %s: %s, cryptsetup says %s", i, key, got, want)
			}
		}
	}
	if !slices.Equal(h.ActiveSlots(), enabled) {
		t.Errorf("slots %v, cryptsetup says %v", h.ActiveSlots(), enabled)
	}
}

func TestHeadersOfCryptsetup(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"default": nil,
		"aes-128": {"--cipher", "aes-cbc-essiv:sha256", "--key-size", "128", "--hash", "sha1"},
		"slot 5":  {"--key-slot", "5", "--hash", "sha512"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := luksFormat(t, 4<<20, append([]string{"--type", "luks1"}, args...)...)
			h := open(t, path)
			if h.Version != 1 || h.LUKS1 == nil || h.LUKS2 != nil {
				t.Fatalf("%#v", h)
			}
			sameAsCryptsetup(t, path, h)
		})
	}
}

func TestDetachedHeaderOfCryptsetup(t *testing.T) {
	t.Parallel()
	payload := must.File(t, make([]byte, 1<<20))
	header := must.File(t, make([]byte, 4<<20))
	must.Have(t, "cryptsetup")
	run(t, "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "-",
		"--offset", "0", "--header", header, payload)
	h := open(t, header)
	if h.PayloadOffset() != 0 {
		t.Errorf("payload at %d", h.PayloadOffset())
	}
	sameAsCryptsetup(t, header, h)
}

func TestHeaderOfQEMU(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "image")
	secret := must.File(t, "test passphrase")
	run(t, "qemu-img", "create", "-f", "luks", "--object", "secret,id=s,file="+secret,
		"-o", "key-secret=s,iter-time=10,cipher-alg=aes-256,cipher-mode=xts,hash-alg=sha512", path, "1M")
	h := open(t, path)
	if h.Version != 1 || h.LUKS1.Cipher != "aes" || h.LUKS1.Mode != "xts-plain64" || !slices.Equal(h.ActiveSlots(), []int{0}) {
		t.Errorf("%v", h)
	}
	info := must.Get(os.Stat(path))(t)
	if h.PayloadOffset() != info.Size()-1<<20 {
		t.Errorf("payload at %d of %d", h.PayloadOffset(), info.Size())
	}
	if _, err := exec.LookPath("cryptsetup"); err == nil {
		sameAsCryptsetup(t, path, h)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[off:], v); return b }
	}
	fill := func(off, n int, c byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[off:], bytes.Repeat([]byte{c}, n)); return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	last := 208 + 48*7
	for name, test := range map[string]struct {
		spoil func([]byte) []byte
		want  error
	}{
		"empty":                      {cut(0), luks.ErrNotLUKS},
		"five bytes":                 {cut(5), luks.ErrNotLUKS},
		"other magic":                {fill(0, 1, 'X'), luks.ErrNotLUKS},
		"in re-encryption":           {put32(2, 0x4b53dead), luks.ErrReencryption},
		"magic only":                 {cut(6), luks.ErrDamaged},
		"half a version":             {cut(7), luks.ErrDamaged},
		"cut in the header":          {cut(591), luks.ErrDamaged},
		"cut in the key material":    {cut(8*512 + 64*4000 - 1), luks.ErrDamaged},
		"version 0":                  {fill(6, 2, 0), luks.ErrUnsupported},
		"version 3":                  {fill(7, 1, 3), luks.ErrUnsupported},
		"endless cipher":             {fill(8, 32, 'a'), luks.ErrDamaged},
		"empty cipher":               {fill(8, 32, 0), luks.ErrDamaged},
		"empty mode":                 {fill(40, 32, 0), luks.ErrDamaged},
		"escape in the hash":         {fill(72, 1, 27), luks.ErrDamaged},
		"endless UUID":               {fill(168, 40, 'a'), luks.ErrDamaged},
		"no key":                     {put32(108, 0), luks.ErrDamaged},
		"huge key":                   {put32(108, 1<<31), luks.ErrDamaged},
		"key too long for its place": {put32(108, 65), luks.ErrDamaged},
		"no digest iterations":       {put32(164, 0), luks.ErrDamaged},
		"odd slot state":             {put32(last, 1), luks.ErrDamaged},
		"no slot iterations":         {put32(212, 0), luks.ErrDamaged},
		"stripes":                    {put32(last+44, 3999), luks.ErrUnsupported},
		"material in the header":     {put32(208+40, 1), luks.ErrDamaged},
		"material in the payload":    {put32(last+40, 4096-499), luks.ErrDamaged},
		"material far away":          {put32(last+40, 0xffffffff), luks.ErrDamaged},
		"slots overlap":              {put32(last+40, 8+504*6+499), luks.ErrDamaged},
		"same material":              {put32(last+40, 8), luks.ErrDamaged},
		"payload in the material":    {put32(104, 100), luks.ErrDamaged},
	} {
		h, err := luks.ReadHeader(bytes.NewReader(test.spoil(synthetic())))
		if h != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v; want %v", name, h, err, test.want)
		}
	}
	// The limits of what is allowed.
	for name, change := range map[string]func([]byte) []byte{
		"up to the payload": put32(last+40, 4096-500), "detached": put32(104, 0), "cut after the last byte": cut(8*512 + 64*4000),
		"no slot in use": put32(208, 0x0000DEAD), "no UUID": fill(168, 40, 0),
	} {
		if _, err := luks.ReadHeader(bytes.NewReader(change(synthetic()))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadErrorsArePassedOn(t *testing.T) {
	t.Parallel()
	r := io.NewSectionReader(failing{}, 0, 1<<20)
	if _, err := luks.ReadHeader(r); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, iotest.ErrTimeout }

func TestNoSaltsInPrint(t *testing.T) {
	t.Parallel()
	h := must.Get(luks.ReadHeader(bytes.NewReader(synthetic())))(t)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", h, h, h, h), fmt.Sprintf("%v %+v %#v %s", *h, *h, *h, *h)} {
		if strings.ContainsAny(s, "{}[]") {
			t.Error(s)
		}
	}
}
