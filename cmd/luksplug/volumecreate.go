package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

// volumeOptions are the flags of volume create.
type volumeOptions struct {
	size, path, header, format string
	mode                       string
	secret                     string
	cipher, hash               string
	keyBits                    int
	luks2                      bool
	label                      string
	unlockTime                 time.Duration
	target                     string
	pool                       string
	force                      string
	dryRun                     bool
	print                      string
	backing, backingFormat     string
	backingSecret              string
	qcow2                      volume.Qcow2
	clusterSize                string
	preallocation              string
	noCOW                      bool
	owner, group               string
	selinuxLabel               string
}

// ofDocument are the flags whose values a <volume> document has.
var ofDocument = []string{"size", "header", "format", "mode", "secret", "cipher", "key-size", "hash", "backing", "backing-format",
	"cluster-size", "compat", "lazy-refcounts", "extended-l2", "nocow", "owner", "group", "selinux-label"}

func newVolumeCreate(a *app) *cobra.Command {
	var o volumeOptions
	cmd := &cobra.Command{
		Use:   "create NAME|VOLUME.xml",
		Short: "Make a volume, with a random passphrase in a key store",
		Long: `create makes an encrypted volume and prints its <disk>, which attach takes. NAME is the
serial number by which the guest finds the disk, and the description of its secret. The
flags describe the volume, or libvirt's <volume> document does (- for standard input, or
a name that ends in .xml); its <encryption> may have luksplug's <header>.

The passphrase is random, and is put into the first key store that can keep it before
anything else is written; deriving a key from it takes no time, as guessing it is
hopeless. With --passphrase-file the passphrase is yours, and is stored as well; with
--secret, or a <secret> in the document, it is that of a secret that exists. Deriving a
key from these takes as long as --unlock-time says.

The header is in the image, or with --header in a file of its own; such a volume, and
one with --luks2, can be used by luksplug and cryptsetup, but not by libvirt alone.

The image is a new file, or a block device that exists. Only luksplug's own directories
for images and headers, beside that of the default key store, are made if they are
missing. A device that is in use is
refused; one with a file system or other data, and a file that is not empty, only
without --force, which has to name its exact size in bytes. A failed run removes what
it has made, the secret as well, and writes back what was in the place of a device's
header.`,
		Example: `  luksplug volume create vm1-vdb --size 10G --path /var/lib/images/vm1-vdb.img > vdb.xml
  luksplug volume create vm1-vdb --size 10G --path /srv/images/vm1-vdb.qcow2 --format qcow2 \
      --header /var/lib/luksplug/headers/vm1-vdb.hdr --target vdb
  luksplug volume create vm1-vdb --path /dev/vg0/vm1-vdb --dry-run
  luksplug volume create volume.xml --pool-xml default.xml --print volume`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isDocument(args[0]) {
				for _, name := range ofDocument {
					if cmd.Flags().Changed(name) {
						return &usageError{fmt.Errorf("--%s and %s contradict each other: write it into the <volume>", name, args[0])}
					}
				}
			} else if o.pool != "" {
				return &usageError{errors.New("--pool-xml is for a <volume> document: give --path")}
			}
			return runVolumeCreate(cmd.Context(), a, o, args[0])
		},
	}
	o.registerVolume(cmd.Flags())
	o.registerImage(cmd.Flags())
	return cmd
}

func (o *volumeOptions) registerVolume(f *pflag.FlagSet) {
	f.StringVar(&o.size, "size", "", "the size of the guest's disk: bytes, or with a unit such as 512M, 10G, 2TiB (powers of 1024), 10GB (of 1000); default that of a block device or of --backing")
	f.StringVar(&o.path, "path", "", "the path of the image: no file, an empty file, or a block device")
	f.StringVar(&o.header, "header", "", "the path of a LUKS header outside of the image, which must not exist")
	f.StringVar(&o.format, "format", "raw", "the format of the image: raw or qcow2")
	f.StringVar(&o.secret, "secret", "", "a secret that exists, by its uuid or TYPE:USAGE, instead of a new one")
	f.StringVar(&o.cipher, "cipher", "", "the encryption (default aes-xts-plain64)")
	f.IntVar(&o.keyBits, "key-size", 0, "the length of the volume key in bits (default the longest of the cipher)")
	f.StringVar(&o.hash, "hash", "", "the hash of the header (default sha256)")
	f.BoolVar(&o.luks2, "luks2", false, "write a LUKS2 header; QEMU and libvirt alone open LUKS1 only")
	f.StringVar(&o.label, "label", "", "the label of a LUKS2 header")
	f.DurationVar(&o.unlockTime, "unlock-time", 2*time.Second, "how long deriving a key from a passphrase that is not random takes")
	f.StringVar(&o.target, "target", "vdb", "the target in the <disk> that is printed")
	f.StringVar(&o.print, "print", "disk", "the document that is printed: disk or volume")
	f.StringVar(&o.pool, "pool-xml", "", "the XML file of the storage pool of a <volume>, whose directory has the image unless the <volume> has a path")
	f.StringVar(&o.force, "force", "", "overwrite the data of a file or block device of exactly this size in bytes")
	f.BoolVar(&o.dryRun, "dry-run", false, "make all checks, and say what would be made, without making it")
}

func (o *volumeOptions) registerImage(f *pflag.FlagSet) {
	f.StringVar(&o.backing, "backing", "", "the path of the image below a qcow2 image, which needs --backing-format")
	f.StringVar(&o.backingFormat, "backing-format", "", "its format: raw, qcow2, or luks for a raw LUKS volume")
	f.StringVar(&o.backingSecret, "backing-secret", "", "the secret that opens an encrypted --backing, by its uuid or TYPE:USAGE (default the one that has its path as usage)")
	f.StringVar(&o.clusterSize, "cluster-size", "", "the size of the clusters of a qcow2 image, such as 128K")
	f.StringVar(&o.qcow2.Compat, "compat", "", "the version of a qcow2 image: 1.1, or 0.10 for QEMU before 1.1")
	f.BoolVar(&o.qcow2.LazyRefcounts, "lazy-refcounts", false, "update the reference counts of a qcow2 image late")
	f.BoolVar(&o.qcow2.ExtendedL2, "extended-l2", false, "allocate parts of the clusters of a qcow2 image")
	f.StringVar(&o.preallocation, "preallocation", "", "how much of the image is allocated: off, metadata (of qcow2), falloc, which reserves room for all, or full, which writes it (default off, and falloc for a <volume> with an <allocation> of its <capacity>)")
	f.BoolVar(&o.noCOW, "nocow", false, "switch off copy-on-write by the image's file system, as btrfs")
	f.StringVar(&o.mode, "mode", "0600", "the permissions of the image")
	f.StringVar(&o.owner, "owner", "", "the owner of the image and the header: a user's name or number")
	f.StringVar(&o.group, "group", "", "their group, by name or number")
	f.StringVar(&o.selinuxLabel, "selinux-label", "", "their SELinux label")
}

// request returns what the flags ask for.
func (o *volumeOptions) request(name string) (volume.Request, error) {
	r := volume.Request{Format: blockgraph.Format(o.format), NoCOW: o.noCOW, Label: o.selinuxLabel, Qcow2: o.qcow2}
	switch {
	case o.path == "":
		return r, &usageError{errors.New("volume create needs --path, the path of the image")}
	case o.size == "" && o.backing == "" && !o.ofDevice():
		return r, &usageError{errors.New("volume create needs --size, such as 10G")}
	case o.keyBits%8 != 0 || o.keyBits < 0:
		return r, &usageError{fmt.Errorf("--key-size %d: it is in bits, such as 256 or 512", o.keyBits)}
	case o.backing == "" && o.backingFormat != "":
		return r, &usageError{errors.New("--backing-format needs --backing, the path of the image below")}
	}
	var err error
	if r.Size, err = optionalFlagSize("size", o.size); err != nil {
		return r, err
	}
	if r.Qcow2.ClusterSize, err = optionalFlagSize("cluster-size", o.clusterSize); err != nil {
		return r, err
	}
	mode, err := strconv.ParseUint(o.mode, 8, 12)
	if err != nil {
		return r, &usageError{fmt.Errorf("--mode %q: give it in octal digits, such as 0600", o.mode)}
	}
	r.Mode = fs.FileMode(mode)
	if r.Owner, err = idOf("owner", o.owner, userNumber); err != nil {
		return r, err
	}
	if r.Group, err = idOf("group", o.group, groupNumber); err != nil {
		return r, err
	}
	if o.header != "" {
		r.Header = absolute(o.header)
	}
	if o.backing != "" {
		r.Backing = &volume.Backing{Path: absolute(o.backing), Format: o.backingFormat}
	}
	r.LUKS.Encryption, r.LUKS.KeyBytes, r.LUKS.Hash = o.cipher, o.keyBits/8, o.hash
	r.Secret.Description = name
	return r, nil
}

// ofDevice reports whether the flags name a block device, whose size the volume can have.
func (o *volumeOptions) ofDevice() bool {
	info, err := os.Stat(o.path)
	return err == nil && isBlockDevice(info)
}

// common adds the flags that are not those of a document.
func (o *volumeOptions) common(r volume.Request) (volume.Request, error) {
	r.Unlock = o.unlockTime
	if o.path != "" {
		r.Path = absolute(o.path)
	}
	if o.preallocation != "" {
		r.Preallocation = volume.Preallocation(o.preallocation)
	}
	if r.LUKS.Label = o.label; o.luks2 {
		r.LUKS.Version = 2
	} else if o.label != "" {
		return r, &usageError{errors.New("--label needs --luks2: a LUKS1 header has no label")}
	}
	if o.print != "disk" && o.print != "volume" {
		return r, &usageError{fmt.Errorf("--print %q: disk and volume are possible", o.print)}
	}
	if o.backingSecret != "" {
		if r.Backing == nil {
			return r, &usageError{errors.New("--backing-secret is for a volume with a backing image")}
		}
		ref, err := parseSecret(o.backingSecret)
		if err != nil {
			return r, err
		}
		r.Backing.Secret = ref
	}
	if o.force == "" {
		return r, nil
	}
	var err error
	if r.Force, err = strconv.ParseInt(o.force, 10, 64); err != nil || r.Force <= 0 {
		return r, &usageError{fmt.Errorf("--force %q: give the exact size in bytes of the file or device that may be overwritten", o.force)}
	}
	return r, nil
}

// optionalFlagSize returns the size that a flag gives, 0 for none.
func optionalFlagSize(name, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := parseSize(text)
	if err != nil {
		return 0, &usageError{fmt.Errorf("--%s %q: %w", name, text, err)}
	}
	return n, nil
}

// sizeUnits are the units of a size, as libvirt and QEMU have them.
var sizeUnits = map[string]int64{
	"": 1, "B": 1,
	"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40, "PIB": 1 << 50,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
}

// parseSize returns the bytes of a size such as "10G".
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BbiIKkMmGgTtPp")
	unit, known := sizeUnits[strings.ToUpper(text[len(digits):])]
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	switch {
	case err != nil || !known || n <= 0:
		return 0, errors.New("give a whole number with a unit, such as 512M, 10G or 2TiB")
	case n > 1<<62/unit:
		return 0, errors.New("no volume is that large")
	}
	return n * unit, nil
}

// pace returns whether the duration depends on the size of the volume.
func (o *volumeOptions) pace() pace {
	if volume.Preallocation(o.preallocation) == volume.PreallocationFull {
		return bySize
	}
	return brisk
}

func runVolumeCreate(ctx context.Context, a *app, o volumeOptions, name string) error {
	ctx, cancel := a.boundedBy(ctx, o.pace())
	defer cancel()
	wanted, err := o.wanted(ctx, a, name)
	if err != nil {
		return err
	}
	if wanted.Attached, err = a.uses(); err != nil {
		return err
	}
	keys := volume.Keys(a.define)
	passphrase, existing, err := givenPassphrase(ctx, a, wanted.secret)
	switch {
	case err != nil:
		return err
	case existing != nil:
		wanted.Secret, keys = existing.document, nil
		wanted.Existing, _ = existing.store.(secrets.Keeper)
	}
	if wanted.Passphrase = passphrase; passphrase != nil {
		defer passphrase.Wipe()
	}
	if o.dryRun {
		v, err := volume.Check(ctx, wanted.Request)
		if err != nil {
			return err
		}
		return showPlannedVolume(a, v, wanted)
	}
	removeDirs, err := a.makeVolumeDirs(wanted.Path, wanted.Header)
	if err != nil {
		return err
	}
	shown := a.transfer("preallocating " + wanted.Path)
	wanted.Progress = shown.update
	v, err := volume.Create(ctx, wanted.Request, keys)
	shown.end()
	if err != nil {
		removeDirs()
		return err
	}
	if v.Store != nil {
		a.settleAfter(ctx, v.Store)
	}
	if v.Unrecorded != nil {
		if err := a.note("%s", unrecordedText(v)); err != nil {
			return err
		}
	}
	return showVolume(a, v, wanted, o)
}

// unrecordedText says that the birth of the data key is not in the key store.
func unrecordedText(v *volume.Volume) string {
	effect := "the age of the volume's data key will not be known"
	if v.LUKS.Version == 2 {
		effect = "the age of the volume's data key is recorded in its header only"
	}
	return fmt.Sprintf("%s, as the document of the secret %s cannot be changed: %v", effect, v.Secret.UUID, v.Unrecorded)
}

// givenPassphrase returns the passphrase of --passphrase-file, or that of the secret that --secret names, and this secret;
// nil if neither is given.
func givenPassphrase(ctx context.Context, a *app, secret string) (value *secrets.Secret, existing *found, err error) {
	switch {
	case secret != "" && a.flags.passphrase != "":
		return nil, nil, &usageError{errors.New("--secret and --passphrase-file contradict each other: the secret has its passphrase")}
	case secret != "":
		err = withSecret(ctx, a, secret, func(ctx context.Context, s found) (err error) {
			existing = &s
			value, err = s.store.Lookup(ctx, s.document.Reference())
			return err
		})
	case a.flags.passphrase != "":
		value, err = a.readPassphrase(ctx, a.flags.passphrase)
	}
	return value, existing, err
}

// showVolume prints a volume that was made.
func showVolume(a *app, v *volume.Volume, wanted wantedVolume, o volumeOptions) error {
	disk := string(v.DiskXML(o.target, wanted.name))
	document := string(wanted.document(v).XML())
	store := ""
	if v.Store != nil {
		store = v.Store.String()
	}
	for _, w := range v.Warnings {
		a.log.Warn(w)
	}
	if a.flags.output != "json" {
		text := fmt.Sprintf("volume %s of %s made: %s at %s", wanted.name, size(v.Size), v.LUKS, v.Path)
		if v.Header != "" {
			text += ", its header at " + v.Header
		}
		text += fmt.Sprintf("; its passphrase is the secret %s", v.Secret.UUID)
		if store != "" {
			text += " in " + store
		}
		if v.LUKS.Version == 2 {
			text += "; luksplug and cryptsetup open it, and QEMU and libvirt alone do not, as they know LUKS1 only"
		}
		if err := a.note("%s", text); err != nil {
			return err
		}
	}
	printed := disk
	if o.print == "volume" {
		printed = document
	}
	return a.show(printed, volumeJSON{
		Name: wanted.name, Path: v.Path, Header: v.Header, Format: string(v.Format), Block: v.Block, Size: v.Size, UUID: v.UUID, LUKS: v.LUKS.Version,
		Secret: v.Secret.UUID.String(), KeyStore: store, Born: v.Born.Format(time.RFC3339), Warnings: v.Warnings, DiskXML: disk, VolumeXML: document,
	})
}

// showPlannedVolume prints a volume that --dry-run has not made.
func showPlannedVolume(a *app, v *volume.Volume, wanted wantedVolume) error {
	secret := "a random passphrase, in the first key store that can keep it"
	switch {
	case wanted.secret != "":
		secret = "the secret " + wanted.secret
	case a.flags.passphrase != "":
		secret = "the given one, in the first key store that can keep it"
	}
	version := max(wanted.LUKS.Version, 1)
	rows := [][]string{
		{"would make", fmt.Sprintf("%s (%s), a disk of %s (%d bytes)", v.Path, v.Format, size(v.Size), v.Size)},
		{"header", "in the image"},
		{"LUKS", fmt.Sprintf("LUKS%d", version)},
		{"passphrase", secret},
	}
	if v.Header != "" {
		rows[1][1] = v.Header
	}
	for _, b := range v.Backing {
		rows = append(rows, []string{"over", fmt.Sprintf("%s (%s)", b.Image.Path, b.Format)})
	}
	for _, w := range v.Warnings {
		rows = append(rows, []string{"warning", w})
	}
	return a.show(table(rows), volumeJSON{Name: wanted.name, Path: v.Path, Header: v.Header, Format: string(v.Format), Block: v.Block, Size: v.Size,
		LUKS: version, DryRun: true, Warnings: v.Warnings})
}

// volumeJSON is a new volume in JSON.
type volumeJSON struct {
	Name      string   `json:"name"`
	Path      string   `json:"path"`
	Header    string   `json:"header,omitempty"`
	Format    string   `json:"format"`
	Block     bool     `json:"block_device,omitempty"`
	Size      int64    `json:"size"`
	UUID      string   `json:"uuid,omitempty"` // of the LUKS volume
	LUKS      int      `json:"luks"`
	Secret    string   `json:"secret,omitempty"`
	KeyStore  string   `json:"keystore,omitempty"`
	Born      string   `json:"key_birth,omitempty"` // of the data key
	DryRun    bool     `json:"dry_run,omitempty"`   // nothing was made
	Warnings  []string `json:"warnings,omitempty"`
	DiskXML   string   `json:"disk_xml,omitempty"`
	VolumeXML string   `json:"volume_xml,omitempty"`
}
