package blockgraph

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// Volume is the source of a <disk type='volume'>: a volume of a storage pool.
type Volume struct {
	Pool, Name string
	Mode       string // source@mode: for iSCSI, "direct" for QEMU's connection, "host" or "" for the host's device
	Auth       *Auth  // the disk's own; that of the pool takes precedence
}

// Pool describes a storage pool.
type Pool struct {
	Name   string
	Type   string // pool@type, such as "dir", "logical" or "iscsi"
	Dir    string `json:"Folder"` // target/path: the volumes on the host; records keep it under this name
	Host   Host   // with Target and Auth, the server of an iscsi pool
	Target string
	Auth   *Auth
	// Volumes are the locations of volumes by name. A caller with a connection to libvirt
	// fills them in: in some pools the paths do not follow from the names.
	Volumes map[string]PoolVolume
}

// PoolVolume is a volume with a path on the host.
type PoolVolume struct {
	Path string
	Kind SourceKind // SourceFile, SourceBlock or SourceDir; "" for the usual one of the pool
}

// Pools are storage pools by their names.
type Pools map[string]*Pool

// Translate returns the disk with every volume replaced by the source that its pool gives
// for it. A disk without volumes is returned unchanged.
//
//	dir, fs, netfs, vstorage -> file target/path + "/" + volume
//	logical, disk, zfs       -> block target/path + "/" + volume
//	iscsi, mode='direct'     -> network iscsi: host, device@path, unit:0:0:LUN, auth
//	iscsi, mode='host'       -> block, by the path that the pool has for the volume
//	iscsi-direct             -> as mode='direct'
//
// The error is an [*InvalidError], which wraps [ErrUnknownPool] where the pool is not
// among pools, or an [*UnsupportedError].
func (d *Disk) Translate(pools Pools) (*Disk, error) {
	if !slices.ContainsFunc(d.Images(), func(i *Image) bool { return i.Source.Kind == SourceVolume }) {
		return d, nil
	}
	out := *d
	var err error
	if out.Image, err = pools.translate(d.Image); err != nil {
		return nil, err
	}
	return &out, out.Validate()
}

// translate returns a copy of the image and of all images that belong to it.
func (p Pools) translate(i Image) (Image, error) {
	var err error
	if i.Source, err = p.source(i.Source); err != nil {
		return i, err
	}
	for _, part := range []**Image{&i.Backing, &i.DataStore} {
		if *part == nil {
			continue
		}
		translated, err := p.translate(**part)
		if err != nil {
			return i, err
		}
		*part = &translated
	}
	if i.Encryption != nil && i.Encryption.Header != nil {
		enc := *i.Encryption
		header, err := p.translate(*enc.Header)
		if err != nil {
			return i, err
		}
		enc.Header, i.Encryption = &header, &enc
	}
	return i, nil
}

func (p Pools) source(s Source) (Source, error) {
	if s.Kind != SourceVolume {
		return s, nil
	}
	v := s.Volume
	pool := p[v.Pool]
	if pool == nil {
		return s, unknownPool(fmt.Sprintf("no storage pool with matching name '%s'", v.Pool))
	}
	out := Source{Slice: s.Slice}
	iscsi := pool.Type == "iscsi" || pool.Type == "iscsi-direct"
	if v.Mode != "" && !iscsi {
		return s, invalid("disk/source@mode", "disk source mode is only valid when storage pool is of iscsi type")
	}
	var err error
	switch {
	case pool.Type == "iscsi-direct", pool.Type == "iscsi" && v.Mode == "direct":
		out.Kind = SourceNetwork
		out.Network, err = pool.unit(v)
	case iscsi:
		out.Kind = SourceBlock
		out.Path, err = pool.volume(v)
	case slices.Contains([]string{"dir", "fs", "netfs", "vstorage"}, pool.Type):
		out.Kind, out.Path = SourceFile, path.Join(pool.Dir, v.Name)
	case slices.Contains([]string{"logical", "disk", "zfs"}, pool.Type):
		out.Kind, out.Path = SourceBlock, path.Join(pool.Dir, v.Name)
	case pool.Type == "scsi":
		out.Kind = SourceBlock
		out.Path, err = pool.volume(v)
	default:
		err = unsupported("disk/source@pool", fmt.Sprintf("using '%s' pools for backing 'volume' disks isn't yet supported", pool.Type))
	}
	if out.Path != "" && strings.Contains(v.Name, "/") {
		err = invalid("disk/source@volume", "the name of a volume has no slash")
	}
	if known := pool.Volumes[v.Name]; known.Path != "" && out.Path != "" {
		out.Path = known.Path
		out.Kind = SourceKind(cmp.Or(string(known.Kind), string(out.Kind)))
	}
	return out, err
}

// volume returns the path of a volume whose name does not determine it.
func (p *Pool) volume(v *Volume) (string, error) {
	if known := p.Volumes[v.Name]; known.Path != "" {
		return known.Path, nil
	}
	return "", unsupported("disk/source@volume", fmt.Sprintf("the pool's XML does not give the path of the volume '%s' of the pool '%s': only libvirt knows it, or use mode='direct' for an iscsi pool", v.Name, p.Name))
}

// unit returns the iSCSI unit that a volume's name, such as "unit:0:0:1", means.
func (p *Pool) unit(v *Volume) (Network, error) {
	parts := strings.Split(v.Name, ":")
	bad := invalid("disk/source@volume", fmt.Sprintf("unexpected iscsi volume name '%s': its form is unit:0:0:1", message.Shorten(v.Name)))
	if len(parts) != 4 {
		return nil, bad
	}
	lun, err := strconv.ParseUint(parts[3], 10, 31)
	if err != nil {
		return nil, bad
	}
	if p.Host.Name == "" || p.Target == "" {
		return nil, invalid("disk/source@pool", fmt.Sprintf("the pool '%s' has no host or no target", p.Name))
	}
	return &ISCSI{Target: p.Target, LUN: lun, Host: p.Host, Auth: p.Auth}, nil
}
