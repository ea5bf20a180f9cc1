package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Request describes a re-encryption.
type Request struct {
	// Disk is the <disk> document of the disk as it is.
	Disk []byte
	// Size is that of the disk in the guest, in bytes.
	Size int64
	// VM is the VM that has the disk; the zero value if none has it.
	VM VM

	// Layout is that of the new volume; "" is that of the old one, and LayoutLUKS for one without encryption. LayoutRaw and
	// LayoutQcow2 are without encryption: what is below about LUKS, secrets and passphrases does not count then.
	Layout Layout
	// Path is that of the new image, and Header that of its header; "" is a name after that of the old one, in the same
	// directory.
	Path, Header string
	// LUKS is the format of the new header. What is not set is as in the old one.
	LUKS luks.Format
	// Secret is the document of the new volume's secret, which keeps its value; its zero value makes a new secret, with a
	// random passphrase.
	Secret secrets.Document
	// Existing is the store of Secret, nil if it cannot be changed; see [volume.Request].
	Existing secrets.Keeper
	// Passphrase is that of Secret, or of a new secret that a person has chosen.
	Passphrase *secrets.Secret
	// InPlace gives the new volume the names of the old one in the end, its payload and a detached header: <disk> documents with
	// these names stay right if the layout and the secret are the same. All of them are files, and the new ones are in the
	// directories of the old ones.
	InPlace bool
	// Speed bounds the copying, in bytes a second; 0 does not.
	Speed int64
	// Spec is that by which the disk was attached.
	Spec hotplug.Spec
	// Attached are the disks that are attached on this host, as hotplug.Uses returns them.
	Attached []hotplug.Use
	// AllowTight begins although the new volume may not have room.
	AllowTight bool
}

// ErrRequest reports a re-encryption that is not possible, whatever the host has.
var ErrRequest = errors.New("the disk cannot be re-encrypted like this")

// Prepared is a re-encryption that has passed all checks that need no change.
type Prepared struct {
	// Entry is what is going to be in the journal. The target has the source's XML until it is made.
	Entry Entry
	// Cost is what the re-encryption takes.
	Cost Cost
	// SameSecret is true if the new volume is opened by the passphrase of the old one, so that a passphrase which has become known
	// opens both.
	SameSecret bool
	// Warnings are what the user has to know before the begin.
	Warnings []string

	request Request
	create  volume.Request
	fresh   bool         // the secret is new
	plain   volume.Plain // instead of create, for a new volume without encryption
}

// Prepare checks a re-encryption, chooses names, and computes what it costs. It changes nothing.
//
// The errors wrap [ErrRequest], [volume.ErrNoRoom], those of [volume.Check], or of [volume.CheckPlain] for a new volume without
// encryption, of [EstimateCost], and those of diskxml.ParseDisk.
func Prepare(ctx context.Context, r Request) (*Prepared, error) {
	disk, err := diskxml.ParseDisk(r.Disk)
	if err != nil {
		return nil, err
	}
	p := &Prepared{request: r}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("disk %s: %w: %s", disk.Target, ErrRequest, fmt.Sprintf(format, args...))
	}
	switch source := disk.Image.Source; {
	case !source.Local() || source.Slice != nil:
		return nil, refuse("its image is %s: only whole files and block devices of this host can be re-encrypted", source)
	case disk.Transient:
		return nil, refuse("it is transient: make it persistent first")
	case disk.Shareable:
		return nil, refuse("it is shareable, and the other VMs would keep the old volume: detach it everywhere, and re-encrypt it then")
	case r.Size <= 0 || r.Size%luks.SectorSize != 0:
		return nil, refuse("a size of %d bytes", r.Size)
	}
	if err := p.source(ctx, disk); err != nil {
		return nil, err
	}
	if err := p.target(disk); err != nil {
		return nil, err
	}
	if err := p.inPlace(disk); err != nil {
		return nil, err
	}
	if err := p.check(ctx); err != nil {
		return nil, err
	}
	if p.Cost, err = EstimateCost(ctx, p.copying(disk)); err != nil {
		return nil, err
	}
	if err := p.Cost.Fits(); err != nil && !r.AllowTight {
		return nil, err
	}
	return p, nil
}

// RecordsBirth reports whether the birth of the new data key will be known: a LUKS2 header has it, or the document of its secret.
func (p *Prepared) RecordsBirth() bool {
	return p.fresh || p.create.Existing != nil || p.create.LUKS.Version == 2
}

// inPlace refuses files that cannot get the names of the old ones, and adds a warning.
func (p *Prepared) inPlace(disk *blockgraph.Disk) error {
	if !p.request.InPlace {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("disk %s: %w in place: %s", disk.Target, ErrRequest, fmt.Sprintf(format, args...))
	}
	old, to := p.Entry.Source, p.Entry.Target
	if p.request.Spec.Relabel {
		return refuse("its files are given to QEMU's user by their names: re-encrypt it to a volume of another name")
	}
	for _, f := range [][2]string{{old.Payload, to.Payload}, {old.Header, to.Header}} {
		if f[0] == "" {
			continue
		}
		info, err := os.Lstat(f[0])
		switch {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return refuse("%s is no file, but %s: only files can be renamed", f[0], info.Mode().Type())
		case f[1] != "" && filepath.Dir(f[0]) != filepath.Dir(f[1]):
			return refuse("%s and %s are in two directories", f[0], f[1])
		}
	}
	p.Entry.InPlace = true
	if old.Layout() != to.Layout() || !p.SameSecret {
		p.Warnings = append(p.Warnings, fmt.Sprintf("<disk> documents of %s, except for those that luksplug keeps, are not right any more in the end: the layout or the secret is another one", old.Payload))
	}
	return nil
}

// check checks where the new volume is going to be, and adds the warnings.
func (p *Prepared) check(ctx context.Context) error {
	old := p.Entry.Source
	if p.Entry.Target.plain() {
		if err := volume.CheckPlain(p.plain); err != nil {
			return err
		}
		p.Warnings = append(p.Warnings, fmt.Sprintf("what the guest has stored is going to be readable in %s, and in all copies of it, without a key", p.Entry.Target.Payload))
	} else {
		v, err := volume.Check(ctx, p.create)
		if err != nil {
			return err
		}
		p.Warnings = append(p.Warnings, v.Warnings...)
	}
	if !old.plain() {
		return nil
	}
	p.Warnings = append(p.Warnings, fmt.Sprintf("what %s holds without encryption stays readable on its storage until that is overwritten, also when the file is removed", old.Payload))
	if !old.markable() {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s cannot be marked: from the switch to the new volume on it lacks what the guest writes, and luksplug does not refuse it by that name", old.Payload))
	}
	return nil
}

// source describes the present volume.
func (p *Prepared) source(ctx context.Context, disk *blockgraph.Disk) error {
	v := Volume{Payload: disk.Image.Source.Path, Format: disk.Image.Format, XML: string(p.request.Disk)}
	if h := disk.Header(); h != nil {
		v.Header = h.Source.Path
	}
	if disk.Encrypted() && disk.Image.Encryption == nil {
		return fmt.Errorf("disk %s: %w: only an image below the top one is encrypted", disk.Target, ErrRequest)
	}
	if disk.Image.Encryption != nil {
		info, err := volume.Inspect(ctx, v.Payload, v.Header, nil)
		if err != nil {
			return err
		}
		v.UUID, v.Secret = strings.ToLower(info.LUKS.UUID), disk.Image.Encryption.Secrets[0]
		if !isID(v.UUID) {
			v.UUID = uuid.NewSHA1(uuid.NameSpaceOID, []byte(info.LUKS.UUID)).String()
		}
		f, err := info.LUKS.Format()
		if err == nil {
			p.inherit(f)
		}
	}
	p.Entry = Entry{Begin: time.Now().UTC().Truncate(time.Second), Phase: PhasePreparing, VM: p.request.VM, Source: v, Speed: p.request.Speed}
	if p.request.VM != (VM{}) {
		p.Entry.Disk = disk.Target
	}
	return nil
}

// inherit takes what the request leaves open from the old header.
func (p *Prepared) inherit(f luks.Format) {
	to := &p.request.LUKS
	if to.Encryption == "" && to.KeyBytes == 0 {
		to.Encryption, to.KeyBytes = f.Encryption, f.KeyBytes
	}
	to.Version, to.Hash, to.Label = cmp.Or(to.Version, f.Version), cmp.Or(to.Hash, f.Hash), cmp.Or(to.Label, f.Label)
}

// target describes the new volume.
func (p *Prepared) target(disk *blockgraph.Disk) error {
	r := &p.request
	layout := cmp.Or(r.Layout, p.Entry.Source.Layout())
	switch r.Layout {
	case "":
		if layout == LayoutRaw || layout == LayoutQcow2 || layout == "" {
			layout = LayoutLUKS
		}
	case LayoutRaw, LayoutQcow2:
		if p.Entry.Source.plain() {
			return fmt.Errorf("disk %s: %w: neither the old volume nor the new one is encrypted", disk.Target, ErrRequest)
		}
	}
	if layout == LayoutLUKSInQcow2 && r.LUKS.Version == 2 {
		r.LUKS.Version = 1 // QEMU alone opens it
	}
	if r.LUKS.Version != 2 {
		r.LUKS.Label = ""
	}
	old := p.Entry.Source
	path := r.Path
	if path == "" {
		if disk.Image.Source.Kind == blockgraph.SourceBlock {
			return fmt.Errorf("disk %s: %w: its image is a block device: name another one for the new volume", disk.Target, ErrRequest)
		}
		path = nextName(old.Payload)
	}
	header := ""
	if layout == LayoutDetachedRaw || layout == LayoutDetachedQcow2 {
		header = r.Header
		if header == "" {
			header = nextName(cmp.Or(old.Header, strings.TrimSuffix(old.Payload, filepath.Ext(old.Payload))+".hdr"))
		}
	} else if r.Header != "" {
		return fmt.Errorf("disk %s: %w: a header in a file of its own is for the layouts with a detached header", disk.Target, ErrRequest)
	}
	r.LUKS.UUID = uuid.NewString()
	p.Entry.ID = r.LUKS.UUID
	p.create = volume.Request{Path: path, Header: header, Size: r.Size, LUKS: r.LUKS, Format: blockgraph.FormatRaw, Secret: r.Secret, Existing: r.Existing, Passphrase: r.Passphrase, Attached: r.Attached}
	if layout.qcow2() {
		p.create.Format = blockgraph.FormatQcow2
	}
	p.Entry.Target = Volume{Payload: path, Header: header, Format: p.create.Format, UUID: p.Entry.ID, XML: old.XML}
	if layout == LayoutRaw || layout == LayoutQcow2 {
		p.Entry.Target.UUID = ""
		p.plain = volume.Plain{Path: path, Format: p.create.Format, Size: r.Size, ID: p.Entry.ID}
		return p.likeOld()
	}
	if r.Secret.UUID == uuid.Nil && r.Secret.UsageType == secrets.UsageNone {
		// The journal has the new secret before a key store has it, so that no crash leaves one that nothing names.
		p.fresh, p.create.Secret.UUID = true, uuid.New()
		p.Entry.Target.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: p.create.Secret.UUID}
	}
	p.SameSecret = r.Secret.UUID != uuid.Nil && r.Secret.UUID == old.Secret.UUID || r.Secret.Usage != "" && r.Secret.Usage == old.Secret.Usage
	return p.likeOld()
}

// likeOld gives the new files the owner and the mode of the old image.
func (p *Prepared) likeOld() error {
	info, err := os.Stat(p.Entry.Source.Payload)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !ok {
		return nil
	}
	p.create.Mode = info.Mode().Perm() | 0o600
	if os.Geteuid() == 0 && !p.request.Spec.Relabel {
		uid, gid := int(st.Uid), int(st.Gid)
		p.create.Owner, p.create.Group = &uid, &gid
	}
	p.plain.Mode, p.plain.Owner, p.plain.Group = p.create.Mode, p.create.Owner, p.create.Group
	return nil
}

// copying describes the copy for [EstimateCost].
func (p *Prepared) copying(disk *blockgraph.Disk) Copying {
	old, to := p.Entry.Source, p.Entry.Target
	c := Copying{
		Source: Source{Layout: old.Layout(), Size: p.request.Size, Header: old.Header},
		Target: Target{Layout: to.Layout(), Path: to.Payload, Header: to.Header}, Speed: p.request.Speed, InPlace: p.Entry.InPlace,
	}
	for _, layer := range disk.Layers() {
		c.Source.Layers = append(c.Source.Layers, Layer{Path: layer.Source.Path, Format: layer.Format, Opaque: !layer.Source.Local() || layer.Encryption != nil && layer != &disk.Image})
	}
	if size, err := p.request.LUKS.HeaderSize(); err == nil {
		c.Target.HeaderSize = max(size, p.request.LUKS.DefaultPayloadOffset())
	}
	return c
}

// generation matches the end of a name that nextName has made.
var generation = regexp.MustCompile(`-r([0-9]{1,6})$`)

// nextName returns a free name for the new file: vm1-vdb.img becomes vm1-vdb-r2.img, and that vm1-vdb-r3.img.
func nextName(path string) string {
	ext := filepath.Ext(path)
	base, n := strings.TrimSuffix(path, ext), 1
	if m := generation.FindStringSubmatch(base); m != nil {
		n, _ = strconv.Atoi(m[1]) // digits
		base = strings.TrimSuffix(base, m[0])
	}
	for {
		n++
		name := fmt.Sprintf("%s-r%d%s", base, n, ext)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
}
