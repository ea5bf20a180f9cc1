package volume

import (
	"fmt"
	"io/fs"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// FromDocument returns the request for the volume of a <volume> document. The caller looks up the passphrase that its
// <secret> names, if it has one. As libvirt and qemu-img do, it rounds the capacity of a file up to 1 KiB; an allocation of
// all the capacity reserves it, and any other, or none, is a sparse image.
//
// The errors wrap [ErrRequest], or are a [*blockgraph.InvalidError] for what libvirt refuses, or a
// [*blockgraph.UnsupportedError] for volumes that [Create] does not make.
func FromDocument(v storagevol.Volume) (Request, error) {
	r := Request{Path: v.Path, Format: blockgraph.Format(v.Format), NoCOW: v.NoCOW}
	if err := v.Check(); err != nil {
		return r, err
	}
	e := v.Encryption
	switch {
	case v.Type == storagevol.TypeDir || v.Type == storagevol.TypeNetwork:
		return r, &blockgraph.UnsupportedError{Element: "volume@type", Reason: fmt.Sprintf("volumes of type '%s' are not made: use file or block", v.Type)}
	case e == nil:
		return r, fmt.Errorf("%w: the volume %s has no <encryption>, and no volume is made without: add <encryption format='luks'/>", ErrRequest, v.Name)
	case v.Path == "":
		return r, fmt.Errorf("%w: the volume %s has no <path>, and its pool is not known", ErrRequest, v.Name)
	}
	r.Size = requestSize(v)
	if v.HasAllocation && v.Allocation >= v.Capacity && v.Capacity > 0 && v.Backing == nil && v.Type != storagevol.TypeBlock {
		r.Preallocation = PreallocationFalloc
	}
	r.Qcow2 = Qcow2{Compat: v.Compat, ClusterSize: int64(v.ClusterSize), LazyRefcounts: v.Features.LazyRefcounts, ExtendedL2: v.Features.ExtendedL2} //nolint:gosec // diskxml bounds sizes to 62 bits
	if b := v.Backing; b != nil {
		r.Backing = &Backing{Path: b.Path, Format: b.Format}
	}
	r.Owner, r.Group, r.Label = v.Permissions.Owner, v.Permissions.Group, v.Permissions.Label
	if m := v.Permissions.Mode; m != nil {
		if r.Mode = fs.FileMode(*m); r.Mode == 0 {
			return r, fmt.Errorf("%w: the mode 0: the owner has to read and write the image", ErrRequest)
		}
	}
	r.LUKS.Encryption, r.LUKS.KeyBytes = e.Name()
	if e.Cipher != nil {
		r.LUKS.Hash = e.Cipher.Hash
	}
	if h := e.Header; h != nil {
		if h.Source.Kind != blockgraph.SourceFile || h.Format != blockgraph.FormatRaw || h.Encryption != nil {
			return r, &blockgraph.UnsupportedError{Element: "volume/target/encryption/header", Reason: "a new header is made in a raw file: use <header type='file'><source file='...'/></header>"}
		}
		r.Header = h.Source.Path
	}
	r.Secret.Description = v.Name
	return r, nil
}

// requestSize returns the size of the guest's disk.
func requestSize(v storagevol.Volume) int64 {
	const unit = 1024         // of qemu-img's size as libvirt gives it
	size := int64(v.Capacity) //nolint:gosec // diskxml bounds sizes to 62 bits
	if v.Type == storagevol.TypeBlock {
		return size / luks.SectorSize * luks.SectorSize
	}
	return (size + unit - 1) / unit * unit
}

// Document returns the <volume> that describes the volume, called name, for libvirt and for another [Create]: given is the
// one that it was made from, or its zero value. It names the secret that opens the volume.
func (v *Volume) Document(name string, given storagevol.Volume) storagevol.Volume {
	d := given
	d.Name, d.Path, d.Format = name, v.Path, string(v.Format)
	d.Capacity, d.HasCapacity = uint64(v.Size), true //nolint:gosec // no volume has a negative size
	d.Type = storagevol.TypeFile
	if v.Block {
		d.Type = storagevol.TypeBlock
	}
	e := storagevol.Encryption{}
	if given.Encryption != nil {
		e = *given.Encryption
	}
	e.Format = storagevol.EncryptionLUKS
	e.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: v.Secret.UUID}
	if v.Header != "" {
		e.Header = &blockgraph.Image{Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: v.Header}, Format: blockgraph.FormatRaw}
	}
	d.Encryption = &e
	return d
}
