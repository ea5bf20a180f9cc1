package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// ErrInactivePool reports that a storage pool is not active.
var ErrInactivePool = errors.New("the pool is not active")

// LookUpPools returns the known pools and those of the disk's volumes that are not
// among them, as the libvirt at uri has them. It connects to libvirt only if there is
// such a volume.
//
// A volume that libvirt does not find is a [*hotplug.PreflightError], which wraps
// [ErrInactivePool] if that is why.
func LookUpPools(ctx context.Context, uri string, disk *blockgraph.Disk, known blockgraph.Pools) (blockgraph.Pools, error) {
	var unknown []*blockgraph.Volume
	for _, image := range disk.Images() {
		if v := image.Source.Volume; image.Source.Kind == blockgraph.SourceVolume && known[v.Pool] == nil {
			unknown = append(unknown, v)
		}
	}
	if len(unknown) == 0 {
		return known, nil
	}
	u, err := libvirtconn.Parse(uri)
	if err != nil {
		return nil, err
	}
	l, disconnect, err := u.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer disconnect()
	found := blockgraph.Pools{}
	for _, v := range unknown {
		if found[v.Pool], err = libvirtconn.Within(ctx, func() (*blockgraph.Pool, error) { return lookUpVolume(l, v, found[v.Pool]) }); err != nil {
			return nil, &hotplug.PreflightError{Target: disk.Target, Cause: hotplug.ErrImageUnusable, Reason: fmt.Sprintf("libvirt %s does not find the volume %s of the pool %s", u, v.Name, v.Pool), Err: err}
		}
	}
	maps.Copy(found, known)
	return found, nil
}

// lookUpVolume returns the volume's pool with the volume. pool is the known part of it,
// nil for none.
func lookUpVolume(l *libvirt.Libvirt, v *blockgraph.Volume, pool *blockgraph.Pool) (*blockgraph.Pool, error) {
	handle, err := l.StoragePoolLookupByName(v.Pool)
	if err != nil {
		return nil, err
	}
	active, err := l.StoragePoolIsActive(handle)
	if err != nil {
		return nil, err
	}
	if active == 0 {
		return nil, fmt.Errorf("%w: virsh pool-start %s", ErrInactivePool, v.Pool)
	}
	volumes := map[string]blockgraph.PoolVolume{}
	if pool == nil {
		text, err := l.StoragePoolGetXMLDesc(handle, 0)
		if err != nil {
			return nil, err
		}
		if pool, err = diskxml.ParsePool([]byte(text)); err != nil {
			return nil, err
		}
	} else {
		maps.Copy(volumes, pool.Volumes)
	}
	volume, err := l.StorageVolLookupByName(handle, v.Name)
	if err != nil {
		return nil, err
	}
	path, err := l.StorageVolGetPath(volume)
	if err != nil {
		return nil, err
	}
	kind, _, _, err := l.StorageVolGetInfo(volume)
	if err != nil {
		return nil, err
	}
	volumes[v.Name] = blockgraph.PoolVolume{Path: path, Kind: volumeKinds[libvirt.StorageVolType(kind)]}
	out := *pool
	out.Volumes = volumes
	return &out, nil
}

// volumeKinds are the kinds of volumes that QEMU opens by a path. Volumes of other kinds
// are on servers, and their paths are not files.
var volumeKinds = map[libvirt.StorageVolType]blockgraph.SourceKind{
	libvirt.StorageVolFile: blockgraph.SourceFile, libvirt.StorageVolBlock: blockgraph.SourceBlock, libvirt.StorageVolDir: blockgraph.SourceDir,
}
