package hook

import (
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// bound returns the store for a disk. A domain's XML and its record name secrets freely, and
// a client who may edit them has no right to every secret of the host: a secret that is bound to a
// volume opens that volume only.
func (c call) bound(disk *blockgraph.Disk) secrets.Store {
	if c.AnyVolume {
		return c.Store
	}
	return secrets.BindVolumes(c.Store, func(ref secrets.Reference) []string { return volumes(disk, ref) })
}

// volumes returns the paths of the payloads and headers for which a disk uses a secret.
func volumes(disk *blockgraph.Disk, ref secrets.Reference) []string {
	var out []string
	add := func(i *blockgraph.Image) {
		if i.Source.Path != "" {
			out = append(out, i.Source.Path)
		}
	}
	for _, layer := range disk.Layers() {
		if layer.Encryption == nil || !slices.Contains(layer.Encryption.Secrets, ref) {
			continue
		}
		add(layer)
		if layer.Encryption.Header != nil {
			add(layer.Encryption.Header)
		}
	}
	return out
}
