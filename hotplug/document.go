package hotplug

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/secrets"
)

// Document returns a <disk> document of an attached disk, for a caller that does not have the one by which it was attached: its
// device, serial, images, secret and cache mode, as far as QEMU and the note on this host have them. QEMU does not tell whether a
// node discards: the document has discard='unmap'. It has no address, and no other option of <driver>.
//
// The errors are a [*NotHeldError], and a [*PreflightError] with [ErrUncopyable] for a disk of which this is not known: one
// with images below its image, on a server, behind a storage daemon or adopted. It changes nothing, and takes no lock.
func (vm *VM) Document(ctx context.Context, target string) ([]byte, error) {
	if err := CheckTarget(target); err != nil {
		return nil, err
	}
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	disk := state.Disk(target)
	if disk == nil {
		return nil, vm.notHeld(ctx, target, state)
	}
	if err := inventory.AddFrontends(ctx, vm.conn, []*AttachedDisk{disk}); err != nil {
		return nil, err
	}
	return document(state, disk)
}

// busOf maps QEMU's drivers to buses.
var busOf = map[string]blockgraph.Bus{
	"virtio-blk": blockgraph.BusVirtio, "scsi-hd": blockgraph.BusSCSI, "scsi-cd": blockgraph.BusSCSI, "scsi-block": blockgraph.BusSCSI, "usb-storage": blockgraph.BusUSB,
}

// document is [VM.Document] in a state.
func document(state *State, disk *AttachedDisk) ([]byte, error) {
	refuse := func(reason string) error {
		return &PreflightError{Target: disk.Target, Cause: ErrUncopyable, Reason: reason + ": name the disk by the XML by which it was attached"}
	}
	driver := disk.Driver
	if strings.HasPrefix(driver, "virtio-blk") {
		driver = "virtio-blk"
	}
	note := state.Host.Notes[disk.Instance]
	bus, known := busOf[driver]
	format, storage := blockgraph.FormatRaw, ""
	for _, name := range disk.Nodes {
		_, role, _ := blockgraph.ParseName(name)
		n := state.Node(name)
		base, layer := role.Base()
		switch {
		case layer > 0:
			return nil, refuse("it has images below its image, which QEMU does not describe as the XML does")
		case base == blockgraph.RolePayloadSlice, base == blockgraph.RoleDataStorage:
			return nil, refuse("its image has parts that QEMU does not describe as the XML does")
		case n == nil:
		case base == blockgraph.RolePayloadFormat:
			format = blockgraph.Format(n.Driver)
		case base == blockgraph.RolePayloadStorage:
			storage = n.Driver
		}
	}
	switch top := state.Top(disk); {
	case disk.Adopted:
		return nil, refuse("it was attached without luksplug")
	case top == nil || !known:
		return nil, refuse("its device is " + disk.Driver)
	case disk.Recovery != "":
		return nil, refuse("it is recovered by a backup of its header")
	case disk.Unlock == blockgraph.MethodStorageDaemon:
		return nil, refuse("a storage daemon serves it")
	case !filepath.IsAbs(disk.Payload) || storage != "file" && storage != "host_device":
		return nil, refuse("its image is no file or block device of this host")
	case format != blockgraph.FormatRaw && format != blockgraph.FormatQcow2:
		return nil, refuse(fmt.Sprintf("its image is %s", format))
	case disk.Unlock != "" && len(note.Secrets) != 1:
		return nil, refuse("this host does not know its secret")
	default:
		out := diskxml.LocalDisk{Target: disk.Target, Bus: bus, Format: format, Payload: diskxml.LocalImage{Path: disk.Payload, Block: storage == "host_device"},
			Header: localImage(disk.Header), Serial: disk.Serial, Discard: "unmap", Cache: cacheOf(top), ReadOnly: disk.ReadOnly}
		if disk.Unlock != "" {
			out.Secret = note.Secrets[0]
			return out.XML(), nil
		}
		out.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()} // which is taken away again
		return diskxml.WithVolume(out.XML(), diskxml.LocalVolume{Format: out.Format, Payload: out.Payload})
	}
}

// localImage describes a file or block device of this host, "" for none.
func localImage(path string) diskxml.LocalImage {
	info, err := os.Stat(path)
	return diskxml.LocalImage{Path: path, Block: err == nil && info.Mode().Type()&os.ModeDevice != 0}
}

// cacheOf returns the cache mode of a node, "" for the default one. Whether the device caches writes is the guest's choice as well.
func cacheOf(n *Node) string {
	switch {
	case n.Cache.Direct:
		return "none"
	case n.Cache.NoFlush:
		return "unsafe"
	}
	return ""
}
