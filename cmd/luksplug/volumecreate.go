package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
}

func newVolumeCreate(a *app) *cobra.Command {
	var o volumeOptions
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a volume, with a random passphrase in a key store",
		Long: `create makes an encrypted volume and prints its <disk>, which attach takes. NAME is the
serial number by which the guest finds the disk, and the description of its secret.

The passphrase is random, and is put into the first key store that can keep it before
anything else is written; deriving a key from it takes no time, as guessing it is
hopeless. With --passphrase-file the passphrase is yours, and is stored as well; with
--secret it is that of a secret that exists. Deriving a key from these takes as long
as --unlock-time says.

The header is in the image, or with --header in a file of its own; such a volume, and
one with --luks2, can be used by luksplug and cryptsetup, but not by libvirt alone.
No file is ever overwritten, and only luksplug's own directories for images and headers,
beside that of the default key store, are made if they are missing. A failed run removes what it has made, the secret as
well.`,
		Example: `  luksplug volume create vm1-vdb --size 10G --path /var/lib/images/vm1-vdb.img > vdb.xml
  luksplug volume create vm1-vdb --size 10G --path /srv/images/vm1-vdb.qcow2 --format qcow2 \
      --header /var/lib/luksplug/headers/vm1-vdb.hdr --target vdb`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error { return runVolumeCreate(cmd.Context(), a, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.size, "size", "", "the size of the guest's disk: bytes, or with a unit such as 512M, 10G, 2TiB (powers of 1024), 10GB (of 1000)")
	f.StringVar(&o.path, "path", "", "the path of the image, which must not exist")
	f.StringVar(&o.header, "header", "", "the path of a LUKS header outside of the image, which must not exist")
	f.StringVar(&o.format, "format", "raw", "the format of the image: raw or qcow2")
	f.StringVar(&o.mode, "mode", "0600", "the permissions of the image")
	f.StringVar(&o.secret, "secret", "", "a secret that exists, by its uuid or TYPE:USAGE, instead of a new one")
	f.StringVar(&o.cipher, "cipher", "", "the encryption (default aes-xts-plain64)")
	f.IntVar(&o.keyBits, "key-size", 0, "the length of the volume key in bits (default the longest of the cipher)")
	f.StringVar(&o.hash, "hash", "", "the hash of the header (default sha256)")
	f.BoolVar(&o.luks2, "luks2", false, "write a LUKS2 header; QEMU and libvirt alone open LUKS1 only")
	f.StringVar(&o.label, "label", "", "the label of a LUKS2 header")
	f.DurationVar(&o.unlockTime, "unlock-time", 2*time.Second, "how long deriving a key from a passphrase that is not random takes")
	f.StringVar(&o.target, "target", "vdb", "the target in the <disk> that is printed")
	return cmd
}

// request returns what the flags ask for.
func (o *volumeOptions) request(name string) (volume.Request, error) {
	r := volume.Request{Path: o.path, Header: o.header, Format: blockgraph.Format(o.format), Unlock: o.unlockTime}
	switch {
	case o.path == "":
		return r, &usageError{errors.New("volume create needs --path, the path of the image")}
	case o.size == "":
		return r, &usageError{errors.New("volume create needs --size, such as 10G")}
	case o.keyBits%8 != 0 || o.keyBits < 0:
		return r, &usageError{fmt.Errorf("--key-size %d: it is in bits, such as 256 or 512", o.keyBits)}
	case o.label != "" && !o.luks2:
		return r, &usageError{errors.New("--label needs --luks2: a LUKS1 header has no label")}
	}
	var err error
	if r.Size, err = parseSize(o.size); err != nil {
		return r, &usageError{fmt.Errorf("--size %q: %w", o.size, err)}
	}
	mode, err := strconv.ParseUint(o.mode, 8, 12)
	if err != nil {
		return r, &usageError{fmt.Errorf("--mode %q: give it in octal digits, such as 0600", o.mode)}
	}
	r.Mode = fs.FileMode(mode)
	r.Path, r.Header = absolute(o.path), o.header
	if o.header != "" {
		r.Header = absolute(o.header)
	}
	r.LUKS.Encryption, r.LUKS.KeyBytes, r.LUKS.Hash, r.LUKS.Label = o.cipher, o.keyBits/8, o.hash, o.label
	if o.luks2 {
		r.LUKS.Version = 2
	}
	r.Secret.Description = name
	return r, nil
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

func runVolumeCreate(ctx context.Context, a *app, o volumeOptions, name string) error {
	r, err := o.request(name)
	if err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	keys := volume.Keys(a.define)
	passphrase, existing, err := givenPassphrase(ctx, a, o.secret)
	switch {
	case err != nil:
		return err
	case existing != nil:
		r.Secret, keys = existing.document, nil
		r.Existing, _ = existing.store.(secrets.Keeper)
	}
	if r.Passphrase = passphrase; passphrase != nil {
		defer passphrase.Wipe()
	}
	removeDirs, err := a.makeVolumeDirs(r.Path, r.Header)
	if err != nil {
		return err
	}
	v, err := volume.Create(ctx, r, keys)
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
	return showVolume(a, v, name, o.target)
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

func showVolume(a *app, v *volume.Volume, name, target string) error {
	disk := string(v.DiskXML(target, name))
	store := ""
	if v.Store != nil {
		store = v.Store.String()
	}
	if a.flags.output != "json" {
		text := fmt.Sprintf("volume %s of %s made: %s at %s", name, size(v.Size), v.LUKS, v.Path)
		if v.Header != "" {
			text += ", its header at " + v.Header
		}
		text += fmt.Sprintf("; its passphrase is the secret %s", v.Secret.UUID)
		if store != "" {
			text += " in " + store
		}
		if err := a.note("%s", text); err != nil {
			return err
		}
	}
	return a.show(disk, volumeJSON{
		Name: name, Path: v.Path, Header: v.Header, Format: string(v.Format), Size: v.Size, UUID: v.UUID, LUKS: v.LUKS.Version,
		Secret: v.Secret.UUID.String(), KeyStore: store, Born: v.Born.Format(time.RFC3339), DiskXML: disk,
	})
}

// volumeJSON is a new volume in JSON.
type volumeJSON struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	Header   string `json:"header,omitempty"`
	Format   string `json:"format"`
	Size     int64  `json:"size"`
	UUID     string `json:"uuid"` // of the LUKS volume
	LUKS     int    `json:"luks"`
	Secret   string `json:"secret"`
	KeyStore string `json:"keystore,omitempty"`
	Born     string `json:"key_birth"` // of the data key
	DiskXML  string `json:"disk_xml"`
}
