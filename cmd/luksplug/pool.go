package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// readPools reads pool documents. A pool has the name in its document and, for
// one that was saved under another name, that of its file: NAME.xml or
// pool-NAME.xml.
func (a *app) readPools(paths []string) (blockgraph.Pools, error) {
	pools, byFile := blockgraph.Pools{}, blockgraph.Pools{}
	for _, path := range paths {
		data, err := a.readInput(path)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the pool XML: %w", err)}
		}
		pool, err := diskxml.ParsePool(data)
		if err != nil {
			return nil, &usageError{fmt.Errorf("%s: %w", path, err)}
		}
		if pools[pool.Name] != nil {
			return nil, &usageError{fmt.Errorf("%s: the pool %s is given twice", path, pool.Name)}
		}
		pools[pool.Name] = pool
		file := strings.TrimSuffix(filepath.Base(path), ".xml")
		byFile[file], byFile[strings.TrimPrefix(file, "pool-")] = pool, pool
	}
	for name, pool := range byFile {
		if pools[name] == nil {
			pools[name] = pool
		}
	}
	return pools, nil
}

// askForPools adds to pools those that the disk's volumes are in and that were
// not given as documents: as the libvirt knows them that has the VM. Without one,
// nothing is added.
func (a *app) askForPools(ctx context.Context, disk *blockgraph.Disk, pools blockgraph.Pools) error {
	var unknown []*blockgraph.Volume
	for _, image := range disk.Images() {
		if v := image.Source.Volume; image.Source.Kind == blockgraph.SourceVolume && pools[v.Pool] == nil {
			unknown = append(unknown, v)
		}
	}
	if len(unknown) == 0 || a.flags.domain == "" {
		return nil
	}
	uri, err := a.libvirtURI()
	if err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	l, closing, err := uri.Connect(ctx)
	if err != nil {
		return err
	}
	defer closing()
	for _, v := range unknown {
		_, err := libvirtconn.Within(ctx, func() (struct{}, error) { return struct{}{}, lookUpVolume(l, v, pools) })
		if err != nil {
			return &hotplug.PreflightError{Target: disk.Target, Reason: fmt.Sprintf("libvirt %s does not find the volume %s of the pool %s", uri, v.Name, v.Pool), Err: err}
		}
	}
	return nil
}

// lookUpVolume asks where a volume is, and adds it to its pool.
func lookUpVolume(l *libvirt.Libvirt, v *blockgraph.Volume, pools blockgraph.Pools) error {
	handle, err := l.StoragePoolLookupByName(v.Pool)
	if err != nil {
		return err
	}
	active, err := l.StoragePoolIsActive(handle)
	if err != nil {
		return err
	}
	if active == 0 {
		return fmt.Errorf("the pool is not active: virsh pool-start %s", v.Pool)
	}
	pool := pools[v.Pool]
	if pool == nil {
		text, err := l.StoragePoolGetXMLDesc(handle, 0)
		if err != nil {
			return err
		}
		if pool, err = diskxml.ParsePool([]byte(text)); err != nil {
			return err
		}
		pool.Volumes = map[string]blockgraph.PoolVolume{}
		pools[v.Pool] = pool
	}
	volume, err := l.StorageVolLookupByName(handle, v.Name)
	if err != nil {
		return err
	}
	path, err := l.StorageVolGetPath(volume)
	if err != nil {
		return err
	}
	kind, _, _, err := l.StorageVolGetInfo(volume)
	if err != nil {
		return err
	}
	pool.Volumes[v.Name] = blockgraph.PoolVolume{Path: path, Kind: volumeKinds[libvirt.StorageVolType(kind)]}
	return nil
}

// volumeKinds are the kinds of volumes that QEMU opens by a path. What a pool
// has of other kinds is a server's, and its path no file.
var volumeKinds = map[libvirt.StorageVolType]blockgraph.SourceKind{
	libvirt.StorageVolFile: blockgraph.SourceFile, libvirt.StorageVolBlock: blockgraph.SourceBlock, libvirt.StorageVolDir: blockgraph.SourceDir,
}
