package volume

import (
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets"
)

// Backing is the image below a qcow2 image.
type Backing struct {
	// Path is absolute, of a file or block device.
	Path string
	// Format is raw, qcow2, or luks for a raw image with a LUKS header. It is never guessed: a guest may have written any
	// header to the beginning of a raw image.
	Format string
	// Secret opens an encrypted image; zero is the secret that has its path as usage.
	Secret secrets.Reference
}

// ErrBacking reports that an image cannot be the backing image of a volume.
var ErrBacking = errors.New("it cannot be a backing image")

// formatLUKS is QEMU's name of a raw image with a LUKS header.
const formatLUKS = "luks"

// maxBacking bounds a chain of images.
const maxBacking = 64

// chain returns the images below a new image, the upper one first, and the size of the guest's disk that they have. All of
// them name the format of the next one, so that the chain can be written into a disk's XML, without which no image of a
// chain is attached. The errors wrap [ErrBacking] or are those of image.Probe.
func (b Backing) chain() (layers []diskxml.LocalLayer, size int64, err error) {
	for next := &b; next != nil; {
		if len(layers) == maxBacking {
			return nil, 0, fmt.Errorf("%s: %w: more than %d images are below it", b.Path, ErrBacking, maxBacking)
		}
		layer, layerSize, below, err := next.read()
		if err != nil {
			return nil, 0, err
		}
		if layers = append(layers, layer); len(layers) == 1 {
			size = layerSize
		}
		next = below
	}
	return layers, size, nil
}

// read reads one image of a chain, and what is below it.
func (b Backing) read() (layer diskxml.LocalLayer, size int64, below *Backing, err error) {
	probed, err := image.Probe(b.Path)
	if err != nil {
		return layer, 0, nil, err
	}
	refuse := func(format string, args ...any) (diskxml.LocalLayer, int64, *Backing, error) {
		return layer, 0, nil, fmt.Errorf("%s: %w: %s", b.Path, ErrBacking, fmt.Sprintf(format, args...))
	}
	layer = diskxml.LocalLayer{Image: diskxml.LocalImage{Path: b.Path, Block: probed.Block}, Format: b.Format}
	size = probed.Size
	encrypted := probed.Format == image.LUKS
	switch {
	case b.Format == "":
		return refuse("its format is not named, and is not guessed: name raw, qcow2 or luks")
	case b.Format == formatLUKS && encrypted:
		layer.Format = string(image.Raw)
		if err := probed.LUKS.QEMUOpens(); err != nil {
			return refuse("%v", err)
		}
		size -= probed.LUKS.PayloadOffset()
	case b.Format == string(image.Raw) && probed.Format == image.Raw:
	case b.Format == string(image.Qcow2) && probed.Format == image.Qcow2:
		q := probed.Qcow2
		size, encrypted = q.VirtualSize, q.LUKS != nil
		if q.Crypt != image.CryptNone && !encrypted {
			return refuse("it has the old encryption of qcow2, which no QEMU that runs VMs opens")
		}
		if q.HasDataFile {
			return refuse("its data are in another file")
		}
		if below, err = b.below(q.References()); err != nil {
			return layer, 0, nil, err
		}
	case b.Format != string(image.Raw) && b.Format != string(image.Qcow2) && b.Format != formatLUKS:
		return refuse("the format %q: raw, qcow2 and luks are possible", b.Format)
	default:
		return refuse("its format is %s, and is named as %s", probed.Format, b.Format)
	}
	if !encrypted {
		return layer, size, below, nil
	}
	if layer.Secret = b.Secret; layer.Secret == (secrets.Reference{}) {
		layer.Secret = secrets.Reference{Type: secrets.Passphrase, Usage: b.Path}
	}
	return layer, size, below, nil
}

// below returns the image below one that has these references, nil for none.
func (b Backing) below(references []image.Reference) (*Backing, error) {
	if len(references) == 0 {
		return nil, nil
	}
	r := references[0]
	path, local := r.Path(b.Path)
	if !local || r.Format == "" {
		return nil, fmt.Errorf("%s: %w: the image below it, %q, is not a file of this host with a named format", b.Path, ErrBacking, r.Name)
	}
	return &Backing{Path: path, Format: r.Format}, nil
}
