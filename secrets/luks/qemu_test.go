package luks_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// luks1With returns a LUKS1 header with these algorithms. No passphrase opens it, but
// trying one requires support for all of them.
func luks1With(t testing.TB, cipher, mode, hash string, keyBytes int) (*luks.Header, []byte) {
	t.Helper()
	b := synthetic()
	for at, name := range map[int]string{8: cipher, 40: mode, 72: hash} {
		clear(b[at : at+32])
		copy(b[at:], name)
	}
	binary.BigEndian.PutUint32(b[108:], uint32(keyBytes))
	binary.BigEndian.PutUint32(b[164:], 1)
	binary.BigEndian.PutUint32(b[212:], 1)
	h := must.Get(luks.ReadHeader(bytes.NewReader(b)))(t)
	return h, b
}

// qemuVerdict is QEMU's reaction to a header: it reports a wrong passphrase (opens),
// refuses the header, or aborts.
type qemuVerdict string

const (
	opens   qemuVerdict = "opens"
	refuses qemuVerdict = "refuses"
	aborts  qemuVerdict = "aborts"
)

func askQEMU(t *testing.T, header []byte) (qemuVerdict, string) {
	t.Helper()
	node := fmt.Sprintf(`json:{"driver":"luks","key-secret":"s","file":{"driver":"file","filename":%q}}`, must.File(t, header))
	cmd := exec.CommandContext(t.Context(), "qemu-io", "--object", secretFile(t, []byte(passphrase)), "-c", "read 0 512", node)
	cmd.Dir = t.TempDir() // for a core file
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		t.Fatalf("%v: %s", err, out)
	case exit.ExitCode() < 0 && bytes.Contains(out, []byte("Assertion")):
		return aborts, string(out)
	case bytes.Contains(out, []byte("Invalid password")):
		return opens, string(out)
	}
	return refuses, string(out)
}

// QEMUOpens agrees with QEMU for every cipher, mode, vector, hash and key length
// that either could support.
func TestQEMUOpens(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io")
	type header struct {
		cipher, mode, hash string
		keyBytes           int
	}
	var headers []header
	for _, cipher := range []string{"aes", "twofish", "serpent", "cast5"} {
		for _, mode := range []string{"xts", "cbc", "ctr"} {
			for _, keyBytes := range []int{16, 24, 32, 48, 64} {
				headers = append(headers, header{cipher, mode + "-plain64", "sha256", keyBytes}, header{cipher, mode + "-essiv:sha256", "sha256", keyBytes})
			}
		}
	}
	for _, iv := range []string{"plain", "plain64be", "benbi", "null", "lmk", "essiv", "essiv:md5", "essiv:sha1", "essiv:sha512", "essiv:sm3", "essiv:ripemd160"} {
		headers = append(headers, header{"aes", "cbc-" + iv, "sha256", 32}, header{"aes", "xts-" + iv, "sha256", 64})
	}
	for _, hash := range []string{"md5", "sha1", "sha224", "sha384", "sha512", "ripemd160", "sm3", "whirlpool", "sha3-256", "blake2b-512", "blake2s-256"} {
		headers = append(headers, header{"aes", "xts-plain64", hash, 64})
	}
	for _, mode := range []string{"ecb", "xts", "cbc", "lrw-plain64"} {
		headers = append(headers, header{"aes", mode, "sha256", 32})
	}
	for _, cipher := range []string{"camellia", "des3_ede", "cipher_null", "xchacha20"} {
		headers = append(headers, header{cipher, "cbc-plain64", "sha256", 16})
	}
	headers = append(headers, header{"aes", "xts-plain64", "sha256", 33}, header{"aes", "cbc-plain64", "sha256", 17})

	seen := map[qemuVerdict]int{}
	for _, c := range headers {
		h, b := luks1With(t, c.cipher, c.mode, c.hash, c.keyBytes)
		verdict, out := askQEMU(t, b)
		seen[verdict]++
		err := h.QEMUOpens()
		saysAborts := strings.Contains(fmt.Sprint(err), "aborts")
		switch {
		case err != nil && !errors.Is(err, luks.ErrUnsupported):
			t.Errorf("%v: %v", c, err)
		case verdict == opens && err != nil && !saysAborts, // a later QEMU may refuse instead of aborting
			verdict == refuses && (err == nil && !strings.Contains(c.hash+c.mode, "sm3") || saysAborts), // an earlier QEMU does not support sm3
			verdict == aborts && !saysAborts:
			t.Errorf("%v: QEMU %s, QEMUOpens says %v\n%s", c, verdict, err, out)
		}
		if h.Usable() == nil && verdict != opens && c.hash == "sha256" {
			t.Errorf("%v: QEMU %s, but Usable says that it could have an ephemeral header", c, verdict)
		}
	}
	if seen[opens] == 0 || seen[refuses] == 0 {
		t.Errorf("%v", seen)
	}
	t.Log(seen)
}

// QEMUOpens agrees with QEMU about the places of key material and payload, also about
// those of unused slots.
func TestQEMUPlaces(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io")
	// One slot has 32*4000 bytes, which are 250 sectors, and QEMU reserves 256.
	for name, c := range map[string]struct {
		first, step, payload uint32
		opens                bool
	}{
		"as QEMU":           {8, 256, 8 + 8*256, true},
		"unaligned":         {9, 257, 9 + 8*257, true},
		"LUKS 1.0":          {2, 250, 2 + 8*250, false},
		"before sector 8":   {7, 256, 4096, false},
		"too close":         {8, 255, 4096, false},
		"early payload":     {8, 256, 7 + 8*256, false},
		"unaligned payload": {8, 256, 13 + 8*256, true},
	} {
		_, b := luks1With(t, "aes", "cbc-plain64", "sha256", 32)
		for i := range uint32(luks.Slots) {
			binary.BigEndian.PutUint32(b[208+48*i+40:], c.first+i*c.step)
		}
		binary.BigEndian.PutUint32(b[104:], c.payload)
		h := must.Get(luks.ReadHeader(bytes.NewReader(b)))(t)
		err := h.QEMUOpens()
		if (err == nil) != c.opens || err != nil && !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("%s: QEMUOpens says %v", name, err)
		}
		if verdict, out := askQEMU(t, b); (verdict == opens) != c.opens {
			t.Errorf("%s: QEMU %s\n%s", name, verdict, out)
		}
	}
}

func TestQEMUOpensNoOther(t *testing.T) {
	t.Parallel()
	h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(metadata()))))(t)
	if err := h.QEMUOpens(); !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), "LUKS2") {
		t.Error(err)
	}
	if _, _, err := h.QEMUUnlockTime(); !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), "LUKS2") {
		t.Error(err)
	}
	b := synthetic()
	binary.BigEndian.PutUint32(b[208:], 0x0000DEAD)
	h = must.Get(luks.ReadHeader(bytes.NewReader(b)))(t)
	if err := h.QEMUOpens(); !errors.Is(err, luks.ErrNoKeySlot) {
		t.Error(err)
	}
	if first, all, err := h.QEMUUnlockTime(); first != 0 || all != 0 || err != nil {
		t.Errorf("%v, %v, %v", first, all, err)
	}
	h, _ = luks1With(t, "aes", "xts-plain64", "whirlpool", 64)
	if _, _, err := h.QEMUUnlockTime(); !errors.Is(err, luks.ErrUnsupported) {
		t.Error(err)
	}
}

// The estimate grows with the work, and is close to the time that this package needs
// for the same on one core.
func TestQEMUUnlockTime(t *testing.T) {
	t.Parallel()
	estimate := func(change func(b []byte)) (first, all time.Duration) {
		b := synthetic()
		change(b)
		h := must.Get(luks.ReadHeader(bytes.NewReader(b)))(t)
		first, all, err := h.QEMUUnlockTime()
		must.OK(t, err)
		return first, all
	}
	iterations := func(b []byte, slot int, n uint32) {
		binary.BigEndian.PutUint32(b[208+48*slot:], 0x00AC71F3)
		binary.BigEndian.PutUint32(b[212+48*slot:], n)
	}
	one, same := estimate(func(b []byte) { iterations(b, 0, 1_000_000) })
	if one != same || one <= 0 {
		t.Errorf("one key slot: %v, %v", one, same)
	}
	first, all := estimate(func(b []byte) { iterations(b, 0, 1_000_000); iterations(b, 3, 1_000_000) })
	if all != 2*first && all-2*first > 2 && 2*first-all > 2 { // rounded
		t.Errorf("two key slots: %v, %v", first, all)
	}
	if ratio := float64(all) / float64(one); ratio < 1 || ratio > 4 {
		t.Errorf("two key slots: %v, one: %v", all, one)
	}
	// Two blocks of sha256 for a key of 64 bytes, one for one of 32.
	half, _ := estimate(func(b []byte) { iterations(b, 0, 1_000_000); binary.BigEndian.PutUint32(b[108:], 32) })
	if ratio := float64(one) / float64(half); ratio < 1 || ratio > 4 {
		t.Errorf("64 bytes: %v, 32 bytes: %v", one, half)
	}
	if most, _ := estimate(func(b []byte) { iterations(b, 0, 1<<32-1); copy(b[72:], "sha3-512") }); most < one {
		t.Errorf("overflow: %v", most)
	}
	// A header that lies: with each hash of QEMU's, and with all slots.
	for _, hash := range []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"} {
		_, all := estimate(func(b []byte) {
			copy(b[72:104], make([]byte, 32))
			copy(b[72:], hash)
			for slot := range 8 {
				iterations(b, slot, 1<<32-1)
			}
		})
		if all < time.Hour {
			t.Errorf("%s, 2^32-1 iterations in 8 slots: %v", hash, all)
		}
	}
	// A digest with that many iterations, which each try computes.
	if _, all := estimate(func(b []byte) { iterations(b, 0, 1000); binary.BigEndian.PutUint32(b[164:], 1<<32-1) }); all < 3*time.Minute {
		t.Errorf("2^32-1 iterations of the digest: %v", all)
	}
}
