package integration

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/luks"
)

// The axes of the matrix: all that luks.Format makes.
var (
	matrixCiphers = []string{"aes", "twofish"}
	matrixModes   = []matrixMode{
		{"xts-plain64", []int{256, 384, 512}}, {"xts-plain", []int{256, 384, 512}},
		{"cbc-plain64", []int{128, 256}}, {"cbc-plain", []int{128, 256}}, {"cbc-essiv:sha256", []int{128, 256}},
	}
	matrixHashes = []string{"sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sha3-224", "sha3-256", "sha3-384", "sha3-512", "blake2b-512", "blake2s-256"}
)

// matrixMode is a mode of encryption with its lengths of keys in bits.
type matrixMode struct {
	name string
	bits []int
}

// cell is one kind of volume.
type cell struct {
	format   blockgraph.Format
	detached bool
	luks     luks.Format
}

func (c cell) String() string {
	detached := ""
	if c.detached {
		detached = " detached"
	}
	return fmt.Sprintf("%s%s LUKS%d %s %d %s", c.format, detached, c.luks.Version, c.luks.Encryption, c.luks.KeyBytes*8, c.luks.Hash)
}

// inQcow2 reports whether the header is inside a qcow2 image, where only QEMU opens it.
func (c cell) inQcow2() bool { return c.format == blockgraph.FormatQcow2 && !c.detached }

// inPrograms reports whether cryptsetup decrypts data of this kind itself, or may have a kernel do it that offers the cipher to
// programs (AF_ALG). OpenSSL has no twofish, and no xts with AES of 192 bits. cryptsetup asks device-mapper for any other.
func (c cell) inPrograms() bool {
	name, mode, _ := strings.Cut(c.luks.Encryption, "-")
	mode, _, _ = strings.Cut(mode, "-")
	if name == "aes" && c.luks.KeyBytes != 48 {
		return true
	}
	fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	return unix.Bind(fd, &unix.SockaddrALG{Type: "skcipher", Name: mode + "(" + name + ")"}) == nil
}

// allCells are those that Create makes.
func allCells() []cell {
	var out []cell
	for _, name := range matrixCiphers {
		for _, mode := range matrixModes {
			for _, bits := range mode.bits {
				for _, hash := range matrixHashes {
					for layout := range 8 {
						c := cell{blockgraph.FormatRaw, layout&1 > 0, luks.Format{Version: 1 + layout>>1&1, Encryption: name + "-" + mode.name, KeyBytes: bits / 8, Hash: hash}}
						if layout&4 > 0 {
							c.format = blockgraph.FormatQcow2
						}
						if !c.inQcow2() || c.luks.QEMUOpens() == nil {
							out = append(out, c)
						}
					}
				}
			}
		}
	}
	return out
}

// someCells cover every value of every axis.
func someCells() []cell {
	const raw, qcow2 = blockgraph.FormatRaw, blockgraph.FormatQcow2
	f := func(version int, encryption string, bits int, hash string) luks.Format {
		return luks.Format{Version: version, Encryption: encryption, KeyBytes: bits / 8, Hash: hash}
	}
	return []cell{ // one has its header inside of qcow2, which takes QEMU seconds of measuring
		{raw, false, f(1, "aes-xts-plain64", 512, "sha256")},
		{raw, false, f(2, "aes-cbc-essiv:sha256", 256, "sha3-256")},
		{raw, true, f(1, "aes-cbc-plain64", 128, "sha512")},
		{raw, true, f(2, "aes-xts-plain64", 256, "blake2b-512")},
		{raw, true, f(2, "twofish-cbc-plain", 256, "sha3-512")},
		{raw, false, f(1, "twofish-xts-plain", 384, "sha1")},
		{qcow2, false, f(1, "aes-xts-plain", 384, "sha384")},
		{raw, false, f(1, "twofish-cbc-essiv:sha256", 128, "ripemd160")},
		{qcow2, true, f(1, "twofish-xts-plain64", 512, "sha224")},
		{qcow2, true, f(2, "aes-cbc-plain", 256, "sha3-224")},
		{qcow2, true, f(2, "twofish-xts-plain64", 256, "sha3-384")},
		{raw, true, f(1, "aes-cbc-essiv:sha256", 256, "blake2s-256")},
	}
}

const (
	matrixSize  = 1 << 20
	matrixChunk = 64 << 10
	// matrixBatch is how many volumes one process opens in turn.
	matrixBatch = 60
	// someDecrypted is how many volumes cryptsetup decrypts in a quick run.
	someDecrypted = 2
)

// matrixVolume is a volume that was made for the matrix.
type matrixVolume struct {
	cell
	dir          string // for its files
	path, header string
	key          string       // the file with its passphrase
	opened       *luks.Header // nil in a qcow2 image
	// ephemeral is the header with which luksplug has QEMU open the volume, and ephemeralKey the file with its passphrase; "" in a
	// qcow2 image.
	ephemeral, ephemeralKey string
	pattern                 int // of the last write
}

// TestVolumeMatrix: volumes that luksplug makes are opened by several releases of QEMU and by cryptsetup, and each reads what
// another has written.
func TestVolumeMatrix(t *testing.T) {
	t.Parallel()
	cells := someCells()
	if peer.IsLong() {
		cells = allCells()
	}
	var counts matrixCounts
	img := onceQemuImg(t)
	for at := 0; at < len(cells); at += matrixBatch {
		part := cells[at:min(at+matrixBatch, len(cells))]
		t.Run(part[0].String(), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			m := matrix{dir: shortDir(t, inMemoryDir), qemuImg: img, counts: &counts}
			made := m.make(ctx, t, part)
			pattern := 1
			for _, release := range matrixReleases(t) {
				counts.opened.Add(int64(release.exchange(ctx, t, made, pattern)))
				pattern += 2
			}
			left := someDecrypted
			if peer.IsLong() {
				left = len(made)
			}
			for i := range made {
				v := &made[i]
				m.inCryptsetup(ctx, t, v)
				if left == 0 || !v.detached || !v.inPrograms() {
					continue
				}
				left--
				m.decryptedBy(ctx, t, v)
				if v.luks.Version == 2 && v.format == blockgraph.FormatRaw && peer.IsLong() {
					m.reencryptedBy(ctx, t, v)
				}
			}
		})
	}
	t.Cleanup(func() {
		t.Logf("%d kinds of volumes; headers opened by a QEMU, with the data exchanged both ways: %d; checked by cryptsetup: %d, opened by it: %d; payloads decrypted by it: %d, re-encrypted by it and read by QEMU: %d",
			len(cells), counts.opened.Load(), counts.dumped.Load(), counts.tried.Load(), counts.decrypted.Load(), counts.reencrypted.Load())
	})
}

// matrixCounts are how many checks have been made.
type matrixCounts struct{ opened, dumped, tried, decrypted, reencrypted atomic.Int64 }

// matrix makes and checks the volumes of a batch.
type matrix struct {
	dir     string // of the volumes
	qemuImg string // the directory of onceQemuImg
	counts  *matrixCounts
}

// onceQemuImg returns a directory with a program qemu-img for PATH, which runs the real one once for each set of arguments
// except for the path, and copies the image after that. The real one measures for three seconds for each encrypted image, and
// luksplug replaces the header that comes of it.
func onceQemuImg(t *testing.T) string {
	t.Helper()
	program := must.Get(exec.LookPath("qemu-img"))(t)
	return filepath.Dir(script(t, "qemu-img", `set -eu
eval "path=\$$(($# - 1))"
made=$(dirname "$0")/$(printf '%s\n' "$@" | grep -vxF "$path" | sha256sum | cut -d ' ' -f 1)
exec 9>"$made.lock"
flock 9
[ -e "$made" ] || { "`+program+`" "$@"; cp "$path" "$made"; }
cp "$made" "$path"`))
}

// make makes volumes.
func (m matrix) make(ctx context.Context, t *testing.T, cells []cell) []matrixVolume {
	t.Helper()
	keys, uri := volumeStore(t)
	store := dir.New(keys)
	define := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return store, store.Define(ctx, d)
	}
	var out []matrixVolume
	for i, c := range cells {
		d := filepath.Join(m.dir, fmt.Sprint(i))
		must.OK(t, os.Mkdir(d, 0o700))
		v := matrixVolume{cell: c, dir: d, path: filepath.Join(d, "image")}
		if c.inQcow2() {
			v.key = filepath.Join(keys, m.makeQcow2(ctx, t, v, uri))
			out = append(out, v)
			continue
		}
		r := volume.Request{Path: v.path, Format: c.format, Size: matrixSize, LUKS: c.luks}
		if c.detached {
			v.header = filepath.Join(d, "header")
			r.Header = v.header
		}
		made := must.Get(volume.Create(ctx, r, define))(t)
		v.key, v.opened = filepath.Join(keys, made.Secret.UUID.String()), made.LUKS
		v.makeEphemeral(ctx, t)
		out = append(out, v)
	}
	return out
}

// makeQcow2 has the program make a volume in a qcow2 image. It returns the UUID of the secret.
func (m matrix) makeQcow2(ctx context.Context, t *testing.T, v matrixVolume, store string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, luksplug, "--keystore", store, "--output", "json", "volume", "create", "matrix", "--path", v.path,
		"--size", fmt.Sprint(matrixSize), "--format", "qcow2", "--cipher", v.luks.Encryption, "--key-size", fmt.Sprint(v.luks.KeyBytes*8), "--hash", v.luks.Hash)
	cmd.Env = append(os.Environ(), "PATH="+m.qemuImg+":"+os.Getenv("PATH"))
	var made struct{ Secret string }
	run(ctx, t, cmd).want(t, 0).decode(t, &made)
	return made.Secret
}

// makeEphemeral opens the volume as luksplug does, and writes its ephemeral header.
func (v *matrixVolume) makeEphemeral(ctx context.Context, t *testing.T) {
	t.Helper()
	f := must.Get(os.Open(cmp.Or(v.header, v.path)))(t)
	defer func() { _ = f.Close() }() // only read
	h := must.Get(luks.ReadHeader(f))(t)
	key := must.Get(h.Unlock(ctx, must.Get(os.ReadFile(v.key))(t)))(t)
	defer key.Wipe()
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	v.ephemeral, v.ephemeralKey = filepath.Join(v.dir, "ephemeral"), filepath.Join(v.dir, "ephemeral-key")
	must.Write(t, v.ephemeral, must.Use(t, e))
	must.Write(t, v.ephemeralKey, must.Use(t, e.Passphrase()))
}

// release is a release of QEMU.
type release struct {
	dir      string // of its programs
	detached bool   // it opens detached headers
}

// matrixReleases are QEMU 7.2, the installed one, and, if it is at hand, the newest.
func matrixReleases(t *testing.T) []release {
	t.Helper()
	out := []release{{"", true}, {filepath.Dir(peer.MatrixQEMU(t, "bookworm")), false}}
	cache := must.Get(peer.CacheDir())(t)
	if found, _ := filepath.Glob(filepath.Join(cache, "qemu-sid-v*", "bin")); len(found) > 0 || peer.IsLong() {
		out = append(out, release{filepath.Dir(peer.MatrixQEMU(t, "sid")), true})
	}
	return out
}

// exchange has the release write a pattern to every volume that it opens, by the volume's own header if it can, reads that
// by luksplug's ephemeral header in the installed QEMU, writes the next pattern so, and has the release read that. It
// returns how many volumes the release has opened.
func (r release) exchange(ctx context.Context, t *testing.T, made []matrixVolume, pattern int) (opened int) {
	t.Helper()
	var first, ours, last []matrixCommand
	for i := range made {
		v := &made[i]
		own := v.inQcow2() || v.opened.QEMUOpens() == nil
		if v.header != "" && !r.detached || !own && !r.detached {
			continue // this release opens no other header than one in the image
		}
		opened++
		v.pattern = pattern + 1
		there := matrixCommand{v, own}
		first = append(first, there)
		last = append(last, there)
		ours = append(ours, matrixCommand{v, v.inQcow2()})
	}
	at := fmt.Sprintf("0 %d", matrixChunk)
	end := fmt.Sprintf("%d 512", matrixSize-512)
	write := func(p int) []string {
		return []string{fmt.Sprintf("write -P %d %s", p, at), fmt.Sprintf("write -P %d %s", p, end)}
	}
	read := func(p int) []string {
		return []string{fmt.Sprintf("read -P %d %s", p, at), fmt.Sprintf("read -P %d %s", p, end)}
	}
	r.qemuIO(ctx, t, first, write(pattern))
	release{"", true}.qemuIO(ctx, t, ours, slices.Concat(read(pattern), write(pattern+1)))
	r.qemuIO(ctx, t, last, read(pattern+1))
	return opened
}

// matrixCommand opens a volume by its own header, or by the ephemeral one.
type matrixCommand struct {
	volume *matrixVolume
	own    bool
}

// qemuIO runs commands on each volume, in one process.
func (r release) qemuIO(ctx context.Context, t *testing.T, volumes []matrixCommand, commands []string) {
	t.Helper()
	if len(volumes) == 0 {
		return
	}
	var args []string
	for i, c := range volumes {
		key := c.volume.key
		if !c.own {
			key = c.volume.ephemeralKey
		}
		args = append(args, "--object", fmt.Sprintf("secret,id=s%d,file=%s", i, key))
	}
	for i, c := range volumes {
		args = append(args, "-c", "open "+c.node(fmt.Sprintf("s%d", i)))
		for _, command := range commands {
			args = append(args, "-c", command)
		}
		args = append(args, "-c", "close")
	}
	out, err := peer.Output(ctx, filepath.Join(r.dir, "qemu-io"), args...)
	done := strings.Count(out, "wrote ") + strings.Count(out, "read ")
	if err == nil && done == len(volumes)*len(commands) && !strings.Contains(out, "ailed") {
		return
	}
	if len(volumes) > 1 { // find the one
		for _, c := range volumes {
			r.qemuIO(ctx, t, []matrixCommand{c}, commands)
		}
	}
	t.Errorf("%s: %d volumes by %q: %d of %d commands: %v\n%s", volumes[0].volume, len(volumes), r.dir, done, len(volumes)*len(commands), err, out)
}

// node names the volume for QEMU.
func (c matrixCommand) node(secret string) string {
	v := c.volume
	file := fmt.Sprintf(`{"driver":"file","filename":%q}`, v.path)
	if v.inQcow2() {
		return fmt.Sprintf(`json:{"driver":"qcow2","encrypt":{"format":"luks","key-secret":%q},"file":%s}`, secret, file)
	}
	if v.format == blockgraph.FormatQcow2 {
		file = fmt.Sprintf(`{"driver":"qcow2","file":%s}`, file)
	}
	header := v.header
	if !c.own {
		header = v.ephemeral
	}
	if header != "" {
		header = fmt.Sprintf(`"header":{"driver":"file","filename":%q},`, header)
	}
	return fmt.Sprintf(`json:{"driver":"luks","key-secret":%q,%s"file":%s}`, secret, header, file)
}

// inCryptsetup checks the header by cryptsetup.
func (m matrix) inCryptsetup(ctx context.Context, t *testing.T, v *matrixVolume) {
	t.Helper()
	if v.inQcow2() {
		return
	}
	file := cmp.Or(v.header, v.path)
	dump := must.Get(peer.Output(ctx, "cryptsetup", "luksDump", file))(t)
	if !strings.Contains(dump, v.opened.UUID) || v.luks.Version == 2 && !strings.Contains(dump, "luksplug-data-key") {
		t.Errorf("%s: luksDump: %s", v, dump)
	}
	if out, err := peer.Output(ctx, "cryptsetup", "repair", "--batch-mode", file); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%s: repair: %q, %v", v, out, err)
	}
	m.counts.dumped.Add(1)
	if !v.inPrograms() {
		return
	}
	if out, err := peer.Output(ctx, "cryptsetup", "open", "--test-passphrase", "--key-file", v.key, file); err != nil {
		t.Errorf("%s: %v: %s", v, err, out)
	}
	m.counts.tried.Add(1)
}

// decryptedBy has cryptsetup decrypt a copy of the payload, and compares that. It decrypts LUKS2 only in a file: a LUKS1 header
// is converted before.
func (m matrix) decryptedBy(ctx context.Context, t *testing.T, v *matrixVolume) {
	t.Helper()
	header, payload := filepath.Join(v.dir, "copied-header"), filepath.Join(v.dir, "decrypted")
	must.Write(t, header, must.Get(os.ReadFile(v.header))(t))
	must.Get(peer.Output(ctx, "qemu-img", "convert", "-f", string(v.format), "-O", "raw", v.path, payload))(t)
	if v.luks.Version == 1 {
		must.Get(peer.Output(ctx, "cryptsetup", "convert", "--batch-mode", "--type", "luks2", header))(t)
	}
	out, err := peer.Output(ctx, "cryptsetup", "reencrypt", "--decrypt", "--force-offline-reencrypt", "--batch-mode", "--key-file", v.key, "--header", header, payload)
	data := must.Get(os.ReadFile(payload))(t)
	if err != nil || len(data) != matrixSize || !bytes.Equal(data[:matrixChunk], repeated(v.pattern, matrixChunk)) || !bytes.Equal(data[matrixSize-512:], repeated(v.pattern, 512)) {
		t.Errorf("%s: cryptsetup reads other data: %v: %s", v, err, out)
	}
	m.counts.decrypted.Add(1)
}

// reencryptedBy has cryptsetup give a LUKS2 volume another volume key, so that it writes all of the data, which QEMU reads then.
func (m matrix) reencryptedBy(ctx context.Context, t *testing.T, v *matrixVolume) {
	t.Helper()
	must.Get(peer.Output(ctx, "cryptsetup", "reencrypt", "--force-offline-reencrypt", "--batch-mode", "--key-file", v.key,
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--header", v.header, v.path))(t)
	before := must.Get(os.ReadFile(v.ephemeral))(t)
	v.makeEphemeral(ctx, t)
	if bytes.Equal(before, must.Get(os.ReadFile(v.ephemeral))(t)) {
		t.Errorf("%s: the header is as before", v)
	}
	release{"", true}.qemuIO(ctx, t, []matrixCommand{{v, false}}, []string{fmt.Sprintf("read -P %d 0 %d", v.pattern, matrixChunk), fmt.Sprintf("read -P %d %d 512", v.pattern, matrixSize-512)})
	m.counts.reencrypted.Add(1)
}

// TestVolumesOfOthers: luksplug opens the volumes that QEMU and cryptsetup make, and reads what they have written.
func TestVolumesOfOthers(t *testing.T) {
	t.Parallel()
	peer.Long(t, "QEMU and cryptsetup measure for seconds for each volume; secrets/luks reads such headers in every run")
	ctx := bounded(t)
	key := writeFile(t, "key", "correct horse")
	releases := matrixReleases(t)
	const parts = 8
	makers := make([][]func(*testing.T) *matrixVolume, parts)
	for i, format := range []blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2} {
		for n, o := range qemuFormats() {
			for m, r := range releases {
				if n < everyRelease || (n+i)%len(releases) == m { // each takes seconds
					p := n % parts
					makers[p] = append(makers[p], func(t *testing.T) *matrixVolume { return r.makeIn(ctx, t, format, o, key) })
				}
			}
		}
	}
	var count atomic.Int64
	t.Cleanup(func() { t.Logf("%d volumes of others", count.Load()) })
	read := func(t *testing.T, made []*matrixVolume) {
		t.Helper()
		var commands []matrixCommand
		for _, v := range made {
			run(ctx, t, v.info(ctx)).want(t, 0).wantStdout(t, "opens key slot 0")
			if !v.inQcow2() {
				v.makeEphemeral(ctx, t)
			}
			commands = append(commands, matrixCommand{v, v.inQcow2()})
		}
		release{"", true}.qemuIO(ctx, t, commands, []string{fmt.Sprintf("read -P %d 0 %d", othersPattern, matrixChunk)})
		count.Add(int64(len(made)))
	}
	for p, part := range makers {
		t.Run(fmt.Sprintf("QEMU %d", p), func(t *testing.T) {
			t.Parallel()
			var made []*matrixVolume
			for _, maker := range part {
				made = append(made, maker(t))
			}
			read(t, made)
		})
	}
	t.Run("cryptsetup", func(t *testing.T) {
		t.Parallel()
		read(t, ofCryptsetup(ctx, t, key))
	})
}

func repeated(p, n int) []byte { return bytes.Repeat([]byte{byte(p)}, n) }

// othersPattern is what the makers of volumes write to them.
const othersPattern = 7

// everyRelease is how many of qemuFormats every release makes. Each of the others is made by one of them.
const everyRelease = 2

// qemuFormats are options with which QEMU makes LUKS volumes.
func qemuFormats() []string {
	some := []string{"", "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1"}
	for _, alg := range []string{"aes-128", "aes-192", "aes-256", "twofish-128", "twofish-192", "twofish-256"} {
		for _, hash := range []string{"sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"} {
			some = append(some, fmt.Sprintf("cipher-alg=%s,cipher-mode=xts,ivgen-alg=plain64,hash-alg=%s", alg, hash))
			if !strings.HasSuffix(alg, "192") { // QEMU makes no cbc volume with 192 bits
				some = append(some, fmt.Sprintf("cipher-alg=%s,cipher-mode=cbc,ivgen-alg=plain,hash-alg=%s", alg, hash))
			}
		}
	}
	return some
}

// makeIn has the release make a volume and write to it.
func (r release) makeIn(ctx context.Context, t *testing.T, format blockgraph.Format, options, key string) *matrixVolume {
	t.Helper()
	d := shortDir(t, inMemoryDir)
	v := &matrixVolume{cell: cell{format: format}, dir: d, path: filepath.Join(d, "image"), key: key}
	driver, prefix := "luks", ""
	if v.inQcow2() {
		driver, prefix = "qcow2", "encrypt."
	}
	all := []string{prefix + "key-secret=s", prefix + "iter-time=10"}
	if v.inQcow2() {
		all = append(all, "encrypt.format=luks")
	}
	for o := range strings.SplitSeq(options, ",") {
		if o != "" {
			all = append(all, prefix+o)
		}
	}
	must.Run(t, "", filepath.Join(r.dir, "qemu-img"), "create", "-q", "-f", driver, "--object", "secret,id=s,file="+key, "-o", strings.Join(all, ","), v.path, fmt.Sprint(matrixSize))
	r.qemuIO(ctx, t, []matrixCommand{{v, true}}, []string{fmt.Sprintf("write -P %d 0 %d", othersPattern, matrixChunk)})
	return v
}

// ofCryptsetup are volumes that cryptsetup makes. It writes data without the kernel's device-mapper only when it encrypts a file
// as LUKS2; QEMU writes those of LUKS1.
func ofCryptsetup(ctx context.Context, t *testing.T, key string) []*matrixVolume {
	t.Helper()
	var out []*matrixVolume
	fast := []string{"--batch-mode", "--key-file", key, "--pbkdf-force-iterations", "1000"}
	for _, o := range [][]string{
		{"--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256"},
		{"--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha512"},
		{"--cipher", "aes-cbc-plain64", "--key-size", "128", "--hash", "sha1"},
	} {
		d := shortDir(t, inMemoryDir)
		one := &matrixVolume{cell: cell{format: blockgraph.FormatRaw}, dir: shortDir(t, inMemoryDir), path: filepath.Join(d, "image"), key: key}
		must.Write(t, one.path, "")
		must.OK(t, os.Truncate(one.path, 2<<20+matrixSize))
		must.Get(peer.Output(ctx, "cryptsetup", slices.Concat([]string{"luksFormat", "--type", "luks1"}, fast, o, []string{one.path})...))(t)
		release{"", true}.qemuIO(ctx, t, []matrixCommand{{one, true}}, []string{fmt.Sprintf("write -P %d 0 %d", othersPattern, matrixChunk)})
		two := &matrixVolume{cell: cell{blockgraph.FormatRaw, true, luks.Format{}}, dir: shortDir(t, inMemoryDir), path: filepath.Join(d, "payload"), header: filepath.Join(d, "header"), key: key}
		must.Write(t, two.path, repeated(othersPattern, matrixSize))
		must.Get(peer.Output(ctx, "cryptsetup", slices.Concat([]string{"reencrypt", "--encrypt", "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--header", two.header}, fast, o, []string{two.path})...))(t)
		out = append(out, one, two)
	}
	return out
}

// info returns the command that tries the key of a volume.
func (v *matrixVolume) info(ctx context.Context) *exec.Cmd {
	args := []string{"--passphrase-file", v.key, "volume", "info", "--check", v.path}
	if v.header != "" {
		args = append(args, "--header", v.header)
	}
	return exec.CommandContext(ctx, luksplug, args...)
}
