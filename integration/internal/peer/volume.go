package peer

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
)

// VolumeKind is one arrangement of ciphertext and LUKS header.
type VolumeKind string

// The kinds of volume.
const (
	DetachedRaw   VolumeKind = "detached over raw"   // raw payload, header in another file
	DetachedQcow2 VolumeKind = "detached over qcow2" // qcow2 payload, header in another file
	EmbeddedLUKS  VolumeKind = "embedded luks"       // one raw file, header first
	Qcow2LUKS     VolumeKind = "qcow2 with luks"     // qcow2's own encryption
)

// VolumeKinds lists every kind.
func VolumeKinds() []VolumeKind {
	return []VolumeKind{DetachedRaw, DetachedQcow2, EmbeddedLUKS, Qcow2LUKS}
}

// VolumeSize is the plaintext size, in bytes, of every volume that this package makes.
const VolumeSize = 64 * MiB

// Volume is a LUKS volume that cryptsetup or qemu-img made: by default LUKS1 with a quick key derivation.
type Volume struct {
	Kind           VolumeKind
	Payload        string // the file that holds the data
	Format         string // of Payload: raw or qcow2
	Header         string // the file that holds the header; empty where it is in Payload
	Size           int64  // what the guest sees, in bytes
	Passphrase     []byte // of the only active key slot
	PassphraseFile string // holds exactly Passphrase, mode 0600
	SecretUUID     string // of the passphrase, in DiskXML
	Offset         int64  // where in Payload the ciphertext begins, in bytes; unused for Qcow2LUKS

	format []string // of cryptsetup luksFormat
}

// NewVolume makes a volume for a test.
func NewVolume(t testing.TB, kind VolumeKind) *Volume {
	t.Helper()
	return NewFormatted(t, kind)
}

// NewFormatted is NewVolume with arguments for cryptsetup luksFormat. A volume of Qcow2LUKS ignores them.
func NewFormatted(t testing.TB, kind VolumeKind, format ...string) *Volume {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v, err := CreateVolume(ctx, t.TempDir(), kind, format...)
	must.OK(t, err)
	return v
}

// NewOtherQcow2LUKS makes a volume of Qcow2LUKS with another passphrase and volume key than that
// of NewVolume.
func NewOtherQcow2LUKS(t testing.TB) *Volume {
	t.Helper()
	v := NewVolume(t, Qcow2LUKS)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must.OK(t, v.copyQcow2LUKS(ctx, "qcow2-luks-other-v1"))
	return v
}

// CreateVolume makes a volume whose files are in dir, which can hold one volume. format is as in
// [NewFormatted]; without it the volume is as from NewVolume.
func CreateVolume(ctx context.Context, dir string, kind VolumeKind, format ...string) (*Volume, error) {
	if len(format) == 0 {
		format = []string{"--type", "luks1", "--pbkdf-force-iterations", "1000"}
	}
	v := &Volume{
		Kind: kind, format: format, Size: VolumeSize, Format: "raw",
		Payload:        filepath.Join(dir, "payload.img"),
		PassphraseFile: filepath.Join(dir, "passphrase"),
		SecretUUID:     uuid.NewString(),
	}
	if kind == DetachedQcow2 || kind == Qcow2LUKS {
		v.Format = "qcow2"
	}
	err := v.newPassphrase()
	switch {
	case err != nil:
	case kind == DetachedRaw, kind == DetachedQcow2:
		err = v.createDetached(ctx, dir)
	case kind == EmbeddedLUKS:
		err = v.createEmbedded(ctx)
	case kind == Qcow2LUKS:
		err = v.createQcow2LUKS(ctx)
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		return nil, fmt.Errorf("make a volume (%s): %w", kind, err)
	}
	return v, nil
}

// createDetached makes a header of payload offset 0 and an empty payload.
func (v *Volume) createDetached(ctx context.Context, dir string) error {
	v.Header = filepath.Join(dir, "header.img")
	size, align := int64(4*MiB), []string{"--align-payload", "0"}
	if v.IsLUKS2() {
		size, align = 16*MiB, nil // the default offset of LUKS2 with this header size is 0
	}
	if err := sparse(v.Header, size); err != nil {
		return err
	}
	// cryptsetup always measures a data device, which must not be a qcow2 file.
	data := filepath.Join(dir, "data")
	if err := sparse(data, VolumeSize); err != nil {
		return err
	}
	if err := v.luksFormat(ctx, append(align, "--header", v.Header, data)...); err != nil {
		return err
	}
	if v.Format == "raw" {
		return os.Rename(data, v.Payload)
	}
	if err := os.Remove(data); err != nil {
		return err
	}
	_, err := Output(ctx, "qemu-img", "create", "-q", "-f", v.Format, v.Payload, strconv.Itoa(VolumeSize))
	return err
}

// createEmbedded makes one file of header and data.
func (v *Volume) createEmbedded(ctx context.Context) error {
	v.Offset = 2 * MiB // cryptsetup's default
	if v.IsLUKS2() {
		v.Offset = 16 * MiB
	}
	if err := sparse(v.Payload, v.Offset+VolumeSize); err != nil {
		return err
	}
	return v.luksFormat(ctx, v.Payload)
}

// luksFormat runs cryptsetup.
func (v *Volume) luksFormat(ctx context.Context, args ...string) error {
	args = slices.Concat([]string{"luksFormat", "--batch-mode", "--key-file", v.PassphraseFile}, v.format, args)
	_, err := Output(ctx, "cryptsetup", args...)
	return err
}

// IsLUKS2 reports whether the volume is LUKS2, which QEMU does not read.
func (v *Volume) IsLUKS2() bool { return slices.Contains(v.format, "luks2") }

// VolumeKey returns the volume's key from cryptsetup, which cannot read a volume of Qcow2LUKS.
func (v *Volume) VolumeKey(ctx context.Context) ([]byte, error) {
	file := filepath.Join(filepath.Dir(v.PassphraseFile), "volume-key")
	defer func() { _ = os.Remove(file) }() // in the test's directory
	if _, err := Output(ctx, "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", file,
		"--key-file", v.PassphraseFile, cmp.Or(v.Header, v.Payload)); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// createQcow2LUKS copies a volume from the cache. Only QEMU makes this kind, and its key derivation benchmark
// takes seconds. So all such volumes have one passphrase and one volume key.
func (v *Volume) createQcow2LUKS(ctx context.Context) error {
	return v.copyQcow2LUKS(ctx, "qcow2-luks-v1")
}

// copyQcow2LUKS copies the volume of that name in the cache, which it makes if it is missing.
func (v *Volume) copyQcow2LUKS(ctx context.Context, name string) error {
	dir, err := cached(name, func(dir string) error {
		t := Volume{PassphraseFile: filepath.Join(dir, "passphrase")}
		if err := t.newPassphrase(); err != nil {
			return err
		}
		_, err := Output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,file="+escapeComma(t.PassphraseFile),
			"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", filepath.Join(dir, "image"), strconv.Itoa(VolumeSize))
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(v.takePassphrase(dir), copyFile(filepath.Join(dir, "image"), v.Payload, 0o600))
}

// takePassphrase gives the volume the passphrase of a volume in the cache.
func (v *Volume) takePassphrase(dir string) (err error) {
	if v.Passphrase, err = os.ReadFile(filepath.Join(dir, "passphrase")); err != nil {
		return err
	}
	return os.WriteFile(v.PassphraseFile, v.Passphrase, 0o600)
}

// copyFile makes a new file with the content of another one.
func copyFile(from, to string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// newPassphrase makes a random passphrase. It is text, as QEMU demands.
func (v *Volume) newPassphrase() error {
	v.Passphrase = []byte(randomText("pass "))
	return os.WriteFile(v.PassphraseFile, v.Passphrase, 0o600)
}

// DiskXML returns the disk element of the volume. target is such as vdb, bus is virtio, scsi or usb.
func (v *Volume) DiskXML(target, bus string) string {
	header := ""
	if v.Header != "" {
		header = "\n      <header type='file'><source file='" + escapeXML(v.Header) + "'/></header>"
	}
	return `<disk type='file' device='disk'>
  <driver name='qemu' type='` + v.Format + `'/>
  <source file='` + escapeXML(v.Payload) + `'>
    <encryption format='luks'>
      <secret type='passphrase' uuid='` + v.SecretUUID + `'/>` + header + `
    </encryption>
  </source>
  <target dev='` + escapeXML(target) + `' bus='` + escapeXML(bus) + `'/>
</disk>
`
}

// ReadThrough reads the plaintext on the host with another program: qemu-img opens the volume's header with
// its passphrase. offset and length are bytes, multiples of 512. It fails while a VM has the volume open for
// writing.
func (v *Volume) ReadThrough(ctx context.Context, offset, length int64) ([]byte, error) {
	out, err := os.CreateTemp(filepath.Dir(v.PassphraseFile), "plain-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(out.Name()) }() // in the test's directory
	if err := out.Close(); err != nil {
		return nil, err
	}
	block := int64(MiB)
	for offset%block != 0 || length%block != 0 {
		block /= 2
	}
	if block < 512 {
		return nil, fmt.Errorf("read through %s: offset %d and length %d are not multiples of 512", v.Kind, offset, length)
	}
	image, err := v.image()
	if err != nil {
		return nil, err
	}
	if _, err := Output(ctx, "qemu-img", "dd", "--object", "secret,id=s,file="+escapeComma(v.PassphraseFile), "-O", "raw",
		fmt.Sprintf("bs=%d", block), fmt.Sprintf("skip=%d", offset/block), fmt.Sprintf("count=%d", (offset+length)/block),
		"if="+image, "of="+out.Name()); err != nil {
		return nil, fmt.Errorf("read through %s: %w", v.Kind, err)
	}
	return os.ReadFile(out.Name())
}

// QemuIO runs one command of qemu-io on the plaintext, read-only, such as "read -P 0xa7 8M 1M", which fails
// if a byte differs. It fails while a VM has the volume open for writing.
func (v *Volume) QemuIO(ctx context.Context, command string) error {
	return v.qemuIO(ctx, command, "--read-only")
}

// WriteOnHost is QemuIO for a command that writes, such as "write -P 0xa7 8M 1M".
func (v *Volume) WriteOnHost(ctx context.Context, command string) error {
	return v.qemuIO(ctx, command)
}

func (v *Volume) qemuIO(ctx context.Context, command string, options ...string) error {
	image, err := v.image()
	if err != nil {
		return err
	}
	return qemuIO(ctx, "qemu-io", append(options, "--object", "secret,id=s,file="+escapeComma(v.PassphraseFile), "-c", command, image)...)
}

// qemuIO runs a qemu-io. Older versions print that a pattern differs, and exit with status 0.
func qemuIO(ctx context.Context, program string, args ...string) error {
	out, err := Output(ctx, program, args...)
	if err == nil && strings.Contains(out, "Pattern verification failed") {
		err = fmt.Errorf("qemu-io %s: %s", strings.Join(args, " "), strings.TrimSpace(out))
	}
	return err
}

// image returns the volume's name for QEMU's tools.
func (v *Volume) image() (string, error) {
	file := func(path string) map[string]any { return map[string]any{"driver": "file", "filename": path} }
	payload := file(v.Payload)
	if v.Format == "qcow2" {
		payload = map[string]any{"driver": "qcow2", "file": payload}
	}
	top := map[string]any{"driver": "luks", "key-secret": "s", "file": payload}
	switch {
	case v.Kind == Qcow2LUKS:
		top = payload
		top["encrypt"] = map[string]any{"format": "luks", "key-secret": "s"}
	case v.Header != "":
		top["header"] = file(v.Header)
	}
	text, err := json.Marshal(top)
	return "json:" + string(text), err
}

// sparse makes a file of size bytes without content.
func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// escapeComma protects commas in a value of QEMU's option syntax.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// escapeXML makes s safe in an XML attribute.
func escapeXML(s string) string {
	var w strings.Builder
	_ = xml.EscapeText(&w, []byte(s)) // the writer never fails
	return w.String()
}
