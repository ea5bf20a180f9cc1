package storagevol

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// Making says how [QemuImg] makes a volume.
type Making struct {
	// From is the volume whose data the new one gets, as by virsh vol-create-from; nil for an empty volume. Its path must
	// be known.
	From *Volume
	// Preallocate is virsh vol-create --prealloc-metadata.
	Preallocate bool
	// SecretFile and FromSecretFile are files with the passphrase of the new volume and of From, which qemu-img reads;
	// "" for a volume without encryption.
	SecretFile, FromSecretFile string
}

// qemuImg is the program's name in the commands.
const qemuImg = "qemu-img"

// creatable are the formats in which qemu-img makes images, and whether they can have a backing image.
var creatable = map[string]bool{"raw": false, "qcow2": true, "qcow": true, "qed": true, "vmdk": true, "vdi": false, "vpc": false}

// QemuImg returns the commands by which libvirt's storage driver makes a volume (virStorageBackendCreateQemuImgCmdFromVol in
// its storage_util.c), the first to be run first. They contain no secret. The volume's path must be known.
//
// The errors are a [*blockgraph.InvalidError] for what libvirt refuses, and a [*blockgraph.UnsupportedError] for a volume
// that libvirt does not make by qemu-img.
func QemuImg(v Volume, m Making) ([][]string, error) {
	c, err := newCommand(v, m)
	if err != nil {
		return nil, err
	}
	if m.From == nil {
		return [][]string{c.create()}, nil
	}
	if v.Encryption == nil && m.From.Encryption == nil {
		return [][]string{c.convertFormat()}, nil
	}
	// qemu-img cannot give a new image a secret and read one with another: the image is made first, and then filled.
	c.backing = nil
	return [][]string{c.create(), c.convertOptions()}, nil
}

// command are the values of a volume's commands.
type command struct {
	Volume
	making  Making
	format  string   // of the image, as qemu-img has it: "luks" for a raw image with encryption
	backing *Backing // nil for an image without one, and for one that gets its data from another
}

func newCommand(v Volume, m Making) (command, error) {
	c := command{Volume: v, making: m, format: imageFormat(v), backing: v.Backing}
	for _, refuse := range []func() error{c.refuseType, c.refuseFormat, c.refuseBacking, c.refuseEncryption, c.refuseInput} {
		if err := refuse(); err != nil {
			return c, err
		}
	}
	if c.format == string(blockgraph.FormatRaw) && v.Encryption != nil {
		c.format = "luks"
	}
	return c, nil
}

// Check returns the error of [QemuImg] for options of a volume that contradict its format.
func (v Volume) Check() error {
	c := command{Volume: v, format: imageFormat(v), backing: v.Backing}
	if err := c.refuseFormat(); err != nil {
		return err
	}
	if v.Encryption != nil && !encryptable(c.format) {
		return c.invalidEncryption()
	}
	return nil
}

// encryptable reports whether an image of the format can be encrypted.
func encryptable(format string) bool {
	return format == string(blockgraph.FormatRaw) || format == string(blockgraph.FormatQcow2)
}

func (c *command) invalidEncryption() error {
	return invalid("volume/target/encryption", "volume encryption unsupported with format %s: use raw or qcow2", c.format)
}

// imageFormat returns the format of an image for qemu-img: block devices and iso images are raw.
func imageFormat(v Volume) string {
	if v.Type == TypeBlock || v.Format == "iso" {
		return string(blockgraph.FormatRaw)
	}
	return cmp.Or(v.Format, string(blockgraph.FormatRaw))
}

func invalid(element, format string, args ...any) error {
	return &blockgraph.InvalidError{Element: element, Reason: fmt.Sprintf(format, args...)}
}

func unsupported(element, format string, args ...any) error {
	return &blockgraph.UnsupportedError{Element: element, Reason: fmt.Sprintf(format, args...)}
}

func (c *command) refuseType() error {
	switch {
	case c.Path == "":
		return invalid("volume/target/path", "is missing: give it, or the pool whose directory has the volume")
	case c.Type == TypeDir || c.Type == TypeNetwork:
		return unsupported("volume@type", "libvirt does not make volumes of type '%s' by qemu-img", c.Type)
	case c.Type == TypeBlock && c.making.From == nil && c.Encryption == nil:
		return unsupported("volume@type", "libvirt makes the block device of such a volume by the pool's own tools, as lvcreate, and not by qemu-img")
	}
	return nil
}

func (c *command) refuseFormat() error {
	backed, known := creatable[c.format]
	qcow2 := c.format == string(blockgraph.FormatQcow2)
	switch {
	case !known:
		return unsupported("volume/target/format@type", "qemu-img makes no images of the format '%s': use raw or qcow2", c.format)
	case c.making.Preallocate && !qcow2:
		return invalid("volume/target/format@type", "metadata preallocation only available with qcow2")
	case c.Compat != "" && !qcow2:
		return invalid("volume/target/compat", "compatibility option only available with qcow2")
	case c.Features.Given && !qcow2:
		return invalid("volume/target/features", "format features only available with qcow2")
	case c.Compat == "0.10" && c.Features.LazyRefcounts:
		return invalid("volume/target/features/lazy_refcounts", "lazy_refcounts not supported with compat level 0.10: use 1.1")
	case c.Compat == "0.10" && c.Features.ExtendedL2:
		return invalid("volume/target/features/extended_l2", "extended_l2 not supported with compat level 0.10: use 1.1")
	case c.ClusterSize != 0 && !qcow2:
		return invalid("volume/target/clusterSize", "only qcow2 images have clusters of a size that can be chosen")
	case c.backing != nil && !backed:
		return invalid("volume/backingStore", "cannot set backing store for %s volume: use qcow2", c.format)
	}
	return nil
}

func (c *command) refuseBacking() error {
	if c.backing == nil {
		return nil
	}
	if c.making.Preallocate {
		return invalid("volume/backingStore", "metadata preallocation conflicts with backing store")
	}
	if from := c.making.From; from != nil && from.Backing != nil && from.Backing.Path != c.backing.Path {
		return invalid("volume/backingStore", "a different backing store cannot be specified: the volume from which it is made has %s", from.Backing.Path)
	}
	return nil
}

func (c *command) refuseEncryption() error {
	e := c.Encryption
	if e == nil {
		return nil
	}
	switch {
	case e.Header != nil:
		return unsupported("volume/target/encryption/header", "libvirt has no detached headers: `luksplug volume create` makes them")
	case e.Format != EncryptionLUKS:
		return invalid("volume/target/encryption@format", "unsupported volume encryption format '%s': libvirt makes format='luks' with a <secret>, and `luksplug volume create` makes this", e.Format)
	case !encryptable(c.format):
		return c.invalidEncryption()
	case c.making.SecretFile == "":
		return invalid("volume/target/encryption/secret", "no secret provided for luks encryption: add <secret type='passphrase' uuid='...'/>")
	}
	return nil
}

func (c *command) refuseInput() error {
	from := c.making.From
	switch {
	case from == nil:
		return nil
	case from.Path == "":
		return invalid("volume/target/path", "missing input volume target path: give it, or the pool whose directory has the volume from which this is made")
	case from.Encryption != nil && (from.Encryption.Format != EncryptionLUKS || c.making.FromSecretFile == ""):
		return invalid("volume/target/encryption/secret", "the encrypted volume from which this is made needs format='luks' and a <secret>")
	}
	return nil
}

// secret returns the option of an object with a passphrase, and its id.
func secret(v Volume, file string) (object []string, id string) {
	id = v.Name + "_encrypt0"
	return []string{"--object", "secret,id=" + escape(id) + ",file=" + escape(file)}, id
}

// escape doubles the commas of a value among others ("qemu-img --object").
func escape(text string) string { return strings.ReplaceAll(text, ",", ",,") }

// create returns the command that makes an empty image.
func (c *command) create() []string {
	out := []string{qemuImg, "create", "-f", c.format}
	if c.backing != nil {
		out = append(out, "-b", c.backing.Path)
	}
	id := ""
	if c.Encryption != nil {
		var object []string
		object, id = secret(c.Volume, c.making.SecretFile)
		out = append(out, object...)
	}
	if options := c.options(id); len(options) > 0 {
		out = append(out, "-o", strings.Join(options, ","))
	}
	out = append(out, c.Path)
	if c.HasCapacity && (c.Capacity > 0 || c.backing == nil) {
		out = append(out, fmt.Sprintf("%dK", (c.Capacity+1023)/1024))
	}
	return out
}

// convertFormat returns the command that copies a volume without encryption.
func (c *command) convertFormat() []string {
	out := []string{qemuImg, "convert", "-f", imageFormat(*c.making.From), "-O", c.format}
	c.backing = nil
	if options := c.options(""); len(options) > 0 {
		out = append(out, "-o", strings.Join(options, ","))
	}
	return append(out, c.making.From.Path, c.Path)
}

// convertOptions returns the command that copies a volume into the image that exists.
func (c *command) convertOptions() []string {
	out := []string{qemuImg, "convert", "--image-opts", "-n", "--target-image-opts"}
	id, fromID := "", ""
	var object []string
	if c.Encryption != nil {
		object, id = secret(c.Volume, c.making.SecretFile)
		out = append(out, object...)
	}
	if c.making.From.Encryption != nil {
		object, fromID = secret(*c.making.From, c.making.FromSecretFile)
		out = append(out, object...)
	}
	return append(out, imageOptions(*c.making.From, fromID), imageOptions(c.Volume, id))
}

// imageOptions names an image that exists, and the secret that opens it.
func imageOptions(v Volume, id string) string {
	format, key := imageFormat(v), "key-secret="
	switch {
	case id == "":
	case format == string(blockgraph.FormatRaw):
		format = "luks"
	default:
		key = "encrypt." + key
	}
	out := "driver=" + format + ",file.filename=" + escape(v.Path)
	if id != "" {
		out += "," + key + escape(id)
	}
	return out
}

// options returns the values of -o of an image that is made with the secret id.
func (c *command) options(id string) []string {
	var out []string
	add := func(name string, value any) { out = append(out, fmt.Sprintf("%s=%v", name, value)) }
	if c.backing != nil {
		add("backing_fmt", cmp.Or(c.backing.Format, string(blockgraph.FormatRaw)))
	}
	prefix := ""
	if id != "" && c.format != "luks" {
		prefix = "encrypt."
		add("encrypt.format", "luks")
	}
	if id != "" {
		add(prefix+"key-secret", escape(id))
		for _, o := range c.Encryption.options() {
			add(prefix+o.Name, o.Value)
		}
	}
	if c.making.Preallocate && c.Capacity > c.allocation() {
		add("preallocation", "metadata")
	} else if c.making.Preallocate {
		add("preallocation", "falloc")
	}
	if c.NoCOW {
		add("nocow", "on")
	}
	if c.format != string(blockgraph.FormatQcow2) {
		return out
	}
	add("compat", cmp.Or(c.Compat, "1.1"))
	if c.ClusterSize > 0 {
		add("cluster_size", c.ClusterSize)
	}
	if c.Features.LazyRefcounts {
		out = append(out, "lazy_refcounts")
	}
	if c.Features.ExtendedL2 {
		out = append(out, "extended_l2")
	}
	return out
}

// allocation returns how much is to be allocated: without <allocation> all of it, as for libvirt.
func (v Volume) allocation() uint64 {
	if !v.HasAllocation {
		return v.Capacity
	}
	return v.Allocation
}

// options returns QEMU's names of <cipher> and <ivgen> (qapi/crypto.json, QCryptoBlockCreateOptionsLUKS).
func (e *Encryption) options() blockgraph.Object {
	var out blockgraph.Object
	if e == nil || e.Cipher == nil {
		return out
	}
	out.Add("cipher-alg", fmt.Sprintf("%s-%d", e.Cipher.Name, e.Cipher.Size))
	out.AddText("cipher-mode", e.Cipher.Mode)
	out.AddText("hash-alg", e.Cipher.Hash)
	if e.IVGen != nil {
		out.AddText("ivgen-alg", e.IVGen.Name)
		out.AddText("ivgen-hash-alg", e.IVGen.Hash)
	}
	return slices.Clip(out)
}
