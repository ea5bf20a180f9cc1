package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// store checks the content of a data store, which the guest sees and writes. A header at
// its beginning is a volume or image that the guest would destroy, unless the caller says
// that the guest has written it.
func (l *layerCheck) store(ctx context.Context, store blockgraph.Image) error {
	if l.Spec.AllowGuestHeader {
		return nil
	}
	found, err := l.stored(ctx, store, func(r image.Reader) (image.Format, error) { return foreignHeader(r, everything) })
	switch {
	case errors.Is(err, luks.ErrOverwritten):
		found = image.LUKS
	case err != nil:
		return err
	}
	return l.refuseStore(image.Data, store.Source, found)
}

// refuseStore refuses a data store, or an extent, by the format with whose header it begins;
// nil for Raw.
func (l *layerCheck) refuseStore(role image.Role, store blockgraph.Source, found image.Format) error {
	const or = "so correct the path, or allow the header, if the guest has written it into its own disk"
	what, of := "data store", l.disk.Image.Source
	if role == image.Extent {
		what = "extent"
	}
	switch found {
	case image.Raw:
		return nil
	case image.LUKS, image.CephClone:
		return l.refuse(outcome.ErrGuestHeader, nil, "the %s %s of the image %s is encrypted with LUKS: the guest would see ciphertext and could destroy the header, %s", what, store, of, or)
	case image.Incomplete:
		return l.refuse(outcome.ErrGuestHeader, luks.ErrIncomplete, "the %s %s of the image %s is encrypted with LUKS and not filled yet: the guest could destroy it, %s", what, store, of, or)
	case image.Reencryption:
		return l.refuse(outcome.ErrGuestHeader, nil, "the %s %s of the image %s is a volume full of data, and %v: finish it with `cryptsetup reencrypt`, and correct the path, or allow the header, if the guest has written it into its own disk", what, store, of, luks.ErrReencryption)
	}
	return l.refuse(outcome.ErrGuestHeader, nil, "the %s %s of the image %s begins with a %s header: the guest could destroy it, %s", what, store, of, found, or)
}

// stored opens an image as it is stored, and calls f with it: in this process, or in a
// storage daemon. For an image that neither opens f is not called.
func (l *layerCheck) stored(ctx context.Context, i blockgraph.Image, f func(image.Reader) (image.Format, error)) (image.Format, error) {
	i.Format, i.DataStore, i.Encryption, i.Backing, i.Terminated, i.MetadataCache = blockgraph.FormatRaw, nil, nil, nil, false, 0
	var r image.Reader
	var err error
	switch {
	case unlock.ReadsHere(i):
		if r, err = unlock.OpenLocal(ctx, i); err == nil {
			defer fsutil.CloseRead(r)
		}
	case byDaemon(i) && haveDaemon():
		r, err = l.Images.OpenRemote(ctx, i)
	default:
		l.Host.Entry(l.Disk.Target).Warnf("the image %s cannot be read here: whether it is encrypted is not checked", i.Source)
		return image.Raw, nil
	}
	found := image.Raw
	if err == nil {
		found, err = f(r)
	}
	var refused *outcome.PreflightError
	switch {
	case err == nil, errors.Is(err, luks.ErrOverwritten), errors.As(err, &refused):
		return found, err
	case errors.Is(err, luks.ErrIncomplete):
		return found, l.refuse(outcome.ErrIncomplete, err, "the image %s is not to be used", i.Source)
	case i.Source.Local():
		return found, l.refuse(outcome.ErrImageUnusable, err, "the image %s cannot be read", i.Source)
	}
	return found, outcome.ServerError(l.disk.Target, i.Source, err)
}

// deepest bounds a chain of backing files, and ends one with a cycle.
const deepest = 200

// trusted checks the files that an image names and the XML does not, where the caller lets
// QEMU open them. An encrypted one is refused: QEMU would show ciphertext to the guest, or
// let it overwrite a header, and writes to the overlay would not be encrypted.
func (l *layerCheck) trusted(ctx context.Context, layer blockgraph.Image, refs []image.Reference) error {
	for range deepest {
		var next []image.Reference
		var below blockgraph.Image
		for _, ref := range refs {
			if ref.Role == image.Backing && (layer.Backing != nil || layer.Terminated) || ref.Role == image.Data && layer.DataStore != nil {
				continue
			}
			named, err := l.named(ref, layer.Source)
			if err != nil {
				l.Host.Entry(l.Disk.Target).Warnf("whether the %s %q of the image %s is encrypted is not checked: %v", ref.Role, ref.Name, layer.Source, err)
				continue
			}
			more, err := l.namedContent(ctx, layer.Source, ref, named)
			if err != nil {
				return err
			}
			if ref.Role == image.Backing {
				below, next = named, more
			}
		}
		if len(next) == 0 {
			return nil
		}
		layer, refs = below, next
	}
	return nil
}

// named returns the image that a reference of the image at source names, by the element of
// the XML for it.
func (l *layerCheck) named(ref image.Reference, source blockgraph.Source) (blockgraph.Image, error) {
	ref.Role = image.Backing
	text := "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/image'/>" + element(ref, source) + "<target dev='vda'/></disk>"
	disk, err := diskxml.ParseDisk([]byte(text))
	if err != nil {
		return blockgraph.Image{}, err
	}
	named := *disk.Image.Backing
	if named.Source.Network != nil && source.Network != nil && !strings.Contains(ref.Name, ":") {
		return blockgraph.Image{}, errors.New("it is relative to a name on a server")
	}
	return named, nil
}

// namedContent refuses an encrypted image that the image at source names, and returns the
// files that it names itself.
func (l *layerCheck) namedContent(ctx context.Context, source blockgraph.Source, ref image.Reference, named blockgraph.Image) ([]image.Reference, error) {
	var refs []image.Reference
	encrypted := func(how string) error {
		if ref.Role != image.Backing {
			return l.refuseStore(ref.Role, named.Source, image.LUKS)
		}
		return l.refuse(outcome.ErrUnexpectedEncryption, nil, "the image %s names the backing file %s, which %s: the guest would see ciphertext, and what it writes would not be encrypted; describe it in <backingStore> with its <encryption>", source, named.Source, how)
	}
	_, err := l.stored(ctx, named, func(r image.Reader) (image.Format, error) {
		prefix := make([]byte, min(magicLength, r.Size()))
		if _, err := r.ReadAt(prefix, 0); err != nil && !errors.Is(err, io.EOF) {
			return image.Raw, err
		}
		begins, format := image.FormatOf(prefix), formatNamed(ref)
		if format == "" { // QEMU probes
			format = begins
		}
		switch {
		case ref.Role == image.Data, ref.Role == image.Extent && format == image.Raw:
			if l.Spec.AllowGuestHeader {
				return begins, nil
			}
			return begins, l.refuseStore(ref.Role, named.Source, begins)
		case begins == image.Incomplete:
			return begins, l.refuse(outcome.ErrIncomplete, luks.ErrIncomplete, "the image %s names the backing file %s, which is encrypted with LUKS and not filled yet", source, named.Source)
		case begins == image.Reencryption:
			return begins, encrypted(fmt.Sprintf("is a volume full of data, and %v (finish it with `cryptsetup reencrypt` first)", luks.ErrReencryption))
		case format == image.LUKS, begins.Encrypted():
			return begins, encrypted("is encrypted with LUKS")
		case format == image.Raw && begins != image.Raw && !l.Spec.AllowGuestHeader:
			return begins, l.refuse(outcome.ErrGuestHeader, nil, "the image %s names the backing file %s as a raw image, and it begins with a %s header: describe it in <backingStore> with its format, or allow the header, if a guest has written it into its own disk", source, named.Source, begins)
		case format == image.Qcow2:
			header, err := image.ReadQcow2(r)
			if err == nil && header.Crypt != image.CryptNone {
				err = encrypted(fmt.Sprintf("is encrypted (%s)", header.Crypt))
			}
			if err == nil {
				refs = header.References()
			}
			return begins, err
		}
		var err error
		refs, err = image.References(r, format)
		return begins, err
	})
	return refs, err
}

// formatNamed returns the format of a file that an image names: the driver of QEMU that opens
// it, "" if QEMU probes.
func formatNamed(ref image.Reference) image.Format {
	text, isJSON := strings.CutPrefix(ref.Name, "json:")
	var node map[string]any
	if !isJSON || json.Unmarshal([]byte(text), &node) != nil {
		return image.Format(ref.Format)
	}
	formats := []string{string(image.LUKS), string(image.Qcow2), "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc"}
	for _, name := range []string{"driver", "file.driver"} {
		if driver, _ := lookUp(node, name).(string); slices.Contains(formats, driver) {
			return image.Format(driver)
		}
	}
	return image.Format(ref.Format)
}
