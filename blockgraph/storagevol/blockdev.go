package storagevol

import (
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// NewImage is what [Blockdev] needs to know of a new image.
type NewImage struct {
	// Disk is the disk whose top image is made. Its target names the nodes, as in a plan.
	Disk *blockgraph.Disk
	// Encryption has the <cipher> and <ivgen> of the new volume; nil for the defaults.
	Encryption *Encryption
	// Backing is the disk whose image is below the new one; nil for none.
	Backing *blockgraph.Disk
	// Size is that of the guest's disk, and Storage that of the file below it, in bytes.
	Size, Storage uint64
}

// Options are arguments of QEMU's blockdev-create (qapi/block-core.json, BlockdevCreateOptions). A nil member is not made:
// a raw image has no format, and block devices and servers as NBD's have their storage already.
type Options struct {
	Protocol blockgraph.Object
	Format   blockgraph.Object
}

// Blockdev returns the options by which libvirt has a QEMU make the image of a disk
// (qemuBlockStorageSourceCreateGetStorageProps and ...GetFormatProps in its qemu_block.c). A member "key-secret" is the id
// of the object with the passphrase that a plan of the disk has. The errors are those of [blockgraph.Build], or a
// [*blockgraph.UnsupportedError] for a format that QEMU does not make.
func Blockdev(n NewImage) (Options, error) {
	disk := *n.Disk
	disk.Image.Backing, disk.Image.Terminated = nil, true
	g, err := blockgraph.Build(&disk, blockgraph.Machine{}, blockgraph.Unlock{Method: blockgraph.MethodQEMU})
	if err != nil {
		return Options{}, err
	}
	storage := g.Nodes[slices.IndexFunc(g.Nodes, func(m blockgraph.Node) bool { return m.Role == blockgraph.RolePayloadStorage })]
	out := Options{Protocol: protocol(storage.Options, n.Storage)}
	out.Format, err = n.format(g, storage.Name)
	return out, err
}

// located are the drivers whose location blockdev-create takes as a member.
var located = []string{"gluster", "rbd", "ssh", "nfs"}

// common are the options of a node that say nothing about its location.
var common = []string{"driver", "node-name", "read-only", "auto-read-only", "discard", "detect-zeroes", "cache", "aio", "debug", "read-zeroes"}

func protocol(node blockgraph.Object, size uint64) blockgraph.Object {
	driver, _ := node.Get("driver").(string)
	out := blockgraph.Object{{Name: "driver", Value: driver}}
	switch {
	case driver == "file":
		out.Add("filename", node.Get("filename"))
	case slices.Contains(located, driver):
		location := slices.DeleteFunc(slices.Clone(node), func(m blockgraph.Member) bool { return slices.Contains(common, m.Name) })
		out.Add("location", location)
	default:
		return nil
	}
	out.Add("size", size)
	return out
}

// formats are QEMU's drivers that make images, and whether they take a backing file with its format, without it, or none.
var formats = map[blockgraph.Format]struct {
	driver             string
	backed, withFormat bool
}{
	blockgraph.FormatQcow2: {"qcow2", true, true},
	blockgraph.FormatQcow:  {"qcow", true, false},
	blockgraph.FormatQED:   {"qed", true, true},
	blockgraph.FormatVMDK:  {"vmdk", true, false},
	blockgraph.FormatVDI:   {driver: "vdi"},
	blockgraph.FormatVHD:   {driver: "vhdx"},
	blockgraph.FormatVPC:   {driver: "vpc"},
	blockgraph.FormatPloop: {driver: "parallels"},
}

func (n NewImage) format(g *blockgraph.Graph, storage string) (blockgraph.Object, error) {
	image := n.Disk.Image
	if image.Encryption != nil && image.Encryption.Header != nil {
		return nil, unsupported("disk/source/encryption/header", "libvirt has no detached headers: `luksplug volume create` makes them")
	}
	var key string
	for _, m := range g.Nodes {
		if len(m.Secrets) > 0 && (m.Options.Has("encrypt") || m.Options.Get("driver") == "luks") {
			key = m.Secrets[0]
		}
	}
	encryption := blockgraph.Object{{Name: "key-secret", Value: key}}
	encryption = append(encryption, n.Encryption.options()...)
	if image.Format == blockgraph.FormatRaw {
		if key == "" {
			return nil, n.refuseBacking(false)
		}
		out := append(blockgraph.Object{{Name: "driver", Value: "luks"}, {Name: "file", Value: storage}}, encryption...)
		out.Add("size", n.Size)
		return out, n.refuseBacking(false)
	}
	f, known := formats[image.Format]
	if !known {
		return nil, unsupported("disk/driver@type", "QEMU makes no images of the format '%s': use raw or qcow2", image.Format)
	}
	out := blockgraph.Object{{Name: "driver", Value: f.driver}, {Name: "file", Value: storage}, {Name: "size", Value: n.Size}}
	if key != "" {
		out.Add("encrypt", append(blockgraph.Object{{Name: "format", Value: "luks"}}, encryption...))
	}
	if n.Backing == nil {
		return out, nil
	}
	if err := n.refuseBacking(f.backed); err != nil {
		return nil, err
	}
	name, format, err := below(n.Backing)
	out.Add("backing-file", name)
	if f.withFormat {
		out.Add("backing-fmt", format)
	}
	return out, err
}

func (n NewImage) refuseBacking(possible bool) error {
	if n.Backing != nil && !possible {
		return invalid("disk/driver@type", "an image of the format '%s' has no backing image: use qcow2", n.Disk.Image.Format)
	}
	return nil
}

// below returns the name of a backing image as a new image has it, and its format.
func below(d *blockgraph.Disk) (name, format string, err error) {
	format = string(d.Image.Format)
	if f, known := formats[d.Image.Format]; known {
		format = f.driver
	}
	if d.Image.Format == blockgraph.FormatRaw && d.Image.Encryption != nil {
		format = "luks"
	}
	source := d.Image.Source
	switch source.Kind {
	case blockgraph.SourceFile, blockgraph.SourceBlock:
		return source.Path, format, nil
	case blockgraph.SourceNetwork:
		if nbd, ok := source.Network.(*blockgraph.NBD); ok && nbd.TLS == nil && nbd.ReconnectDelay == 0 {
			return strings.TrimSuffix(nbd.String(), "/"), format, nil
		}
	}
	disk := *d
	disk.Image = blockgraph.Image{Source: source, Format: blockgraph.FormatRaw}
	g, err := blockgraph.Build(&disk, blockgraph.Machine{}, blockgraph.Unlock{Method: blockgraph.MethodQEMU})
	if err != nil {
		return "", "", err
	}
	if len(g.Objects) > 0 {
		return "", "", unsupported("disk/source", "a backing image that needs a secret or a certificate of its server cannot be named in another image")
	}
	options := slices.DeleteFunc(slices.Clone(g.Nodes[0].Options), func(m blockgraph.Member) bool { return m.Name != "driver" && slices.Contains(common, m.Name) })
	return "json:" + blockgraph.Object{{Name: "file", Value: options}}.String(), format, nil
}
