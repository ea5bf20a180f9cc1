package unlock

import (
	"context"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// ReadsHere reports whether package image can read the image: a whole file or block
// device of this host in a known format. Others need a storage daemon.
func ReadsHere(i blockgraph.Image) bool {
	return i.Source.Local() && (i.Format == blockgraph.FormatRaw || i.Format == blockgraph.FormatQcow2)
}

// OpenLocal opens an image for which [ReadsHere] is true, with the data store that the XML
// names. It is an [image.Opener].
func OpenLocal(_ context.Context, i blockgraph.Image) (image.Reader, error) {
	data := ""
	if s := i.DataStore; s != nil && s.Source.Local() {
		data = s.Source.Path
	}
	guest, err := image.OpenGuest(i.Source.Path, image.Format(i.Format), data)
	if err != nil {
		return nil, err
	}
	return guest, nil
}

// ReadHeader reads the LUKS header at the start of a local image's content.
func ReadHeader(ctx context.Context, i blockgraph.Image) (*luks.Header, error) {
	r, err := OpenLocal(ctx, i)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(r)
	return luks.ReadHeader(r)
}

// HeaderOf returns the disk's LUKS header, nil if it cannot be read here.
func HeaderOf(ctx context.Context, h *host.Host, disk *blockgraph.Disk) *luks.Header {
	if !h.Local || disk.Image.Encryption == nil || !ReadsHere(*disk.Image.LUKSHeader()) {
		return nil
	}
	original := disk.Header()
	if original == nil && disk.Image.Format == blockgraph.FormatQcow2 {
		info, err := image.Probe(disk.Image.Source.Path)
		if err != nil || info.Qcow2 == nil {
			return nil
		}
		return info.Qcow2.LUKS
	}
	if original == nil {
		original = &disk.Image
	}
	header, err := ReadHeader(ctx, *original)
	if err != nil {
		return nil
	}
	return header
}
