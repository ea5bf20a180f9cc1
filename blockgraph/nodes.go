package blockgraph

import "fmt"

// layer describes the image of some nodes, and the settings that they inherit from the disk.
type layer struct {
	number   int  // 0 is the top one
	header   bool // a LUKS header
	data     bool // a data store
	overlay  bool // over all layers, of a transient disk
	readOnly bool
}

// role returns the role of one of the layer's nodes.
func (l layer) role(payload, header Role) Role {
	switch {
	case l.header:
		return header.at(l.number)
	case l.data:
		return RoleDataStorage.at(l.number)
	}
	return payload.at(l.number)
}

// chain adds the nodes of an image and of everything below it, and returns the name of the
// top node, which shows the guest's view. As in libvirt, the deepest layer comes first, and
// a data store before its image.
func (b *builder) chain(image Image, number int) (string, error) {
	below := links{}
	var err error
	if image.Backing != nil {
		if below.backing, err = b.chain(*image.Backing, number+1); err != nil {
			return "", err
		}
	}
	readOnly := b.disk.ReadOnly || b.disk.Transient || number > 0
	if image.DataStore != nil {
		// Writable under a read-only disk, as in libvirt.
		l := layer{number: number, data: true, readOnly: b.disk.Transient || number > 0}
		if below.data, err = b.plain(*image.DataStore, l, links{}); err != nil {
			return "", err
		}
	}
	l := layer{number: number, readOnly: readOnly}
	if !image.RawLUKS() {
		return b.plain(image, l, below)
	}
	return b.encrypted(image, l, below)
}

// links are the names of the nodes that an image refers to.
type links struct{ backing, data string }

// encrypted adds the nodes of an image that QEMU's LUKS node decrypts.
//
//	raw                     storage, luks
//	raw, detached header    header, storage, luks
//	qcow2, detached header  header, storage, format, luks
//
// An ephemeral header is a node of its own that replaces a detached one.
func (b *builder) encrypted(image Image, l layer, below links) (string, error) {
	enc := image.Encryption
	var header, secret string
	switch {
	case b.unlock.Method == MethodEphemeralHeader:
		secret = b.secret(SecretData{Ref: enc.Secrets[0], OneTime: true})
		header = b.ephemeral(*image.LUKSHeader(), secret, l.number)
	case enc.Header != nil:
		var err error
		if header, err = b.plain(*enc.Header, layer{number: l.number, header: true, readOnly: l.readOnly}, links{}); err != nil {
			return "", err
		}
	}
	payload, err := b.parts(image, l, below, false)
	if err != nil {
		return "", err
	}
	if secret == "" {
		secret = b.secret(SecretData{Ref: enc.Secrets[0]})
	}
	return b.luks(header, payload, secret, l), nil
}

// plain adds the nodes of an image that needs no LUKS node.
func (b *builder) plain(image Image, l layer, below links) (string, error) {
	return b.parts(image, l, below, true)
}

// parts adds the nodes that most images have: storage, the slice of it, and format. The
// layer above uses the last one, which gets the disk's access mode if it is the top of its
// image. As in libvirt, a raw image has no format node, which would only cost time.
func (b *builder) parts(image Image, l layer, below links, top bool) (string, error) {
	hasFormat := image.Format != FormatRaw
	hasSlice := image.Source.Slice != nil
	name, err := b.storage(image, l, top && !hasFormat && !hasSlice)
	if err != nil {
		return "", err
	}
	if hasSlice {
		name = b.slice(*image.Source.Slice, name, l, top && !hasFormat)
	}
	if hasFormat {
		name = b.format(image, name, l, below, top)
	}
	return name, nil
}

// storage adds the protocol node of an image. Options that the protocols have in common:
//
//	driver@cache    -> cache.direct, cache.no-flush
//	driver@discard  -> discard, where it is the image's only node
func (b *builder) storage(image Image, l layer, top bool) (string, error) {
	s := image.Source
	role := l.role(RolePayloadStorage, RoleHeaderStorage)
	name := b.name(role)
	var o nodeOptions
	switch s.Kind {
	case SourceFile, SourceBlock:
		o = b.file(s, l)
	case SourceDir:
		o = b.dir(s)
	case SourceNVMe:
		o = s.NVMe.node()
	case SourceVHostVDPA:
		o = b.vdpa(s, name)
	case SourceNetwork:
		o = s.Network.node(b, image.Encryption)
	case SourceVolume:
		return "", unknownPool(fmt.Sprintf("the pool '%s' is not known", s.Volume.Pool))
	default:
		return "", unsupported("disk@type", fmt.Sprintf("sources of type %q are not supported here", s.Kind))
	}
	o.Add("node-name", name)
	b.addAccess(&o.Object, l, top)
	return b.add(Node{Role: role, Options: o.Object, Secrets: o.secrets, Objects: o.objects, From: s.withoutSlice()}), nil
}

// slice adds the node of a part of the storage.
//
//	slice@offset, @size (bytes) -> driver raw, offset, size
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsRaw.
func (b *builder) slice(s Slice, file string, l layer, top bool) string {
	role := l.role(RolePayloadSlice, RoleHeaderSlice)
	o := Object{{"driver", "raw"}, {"file", file}, {"offset", s.Offset}, {"size", s.Size}, {"node-name", b.name(role)}}
	b.addAccess(&o, l, top)
	return b.add(Node{Role: role, Options: o, Children: []Child{{"file", file}}})
}

// format adds the format node of an image over its storage.
//
//	driver@type, format@type  -> driver
//	<encryption> in the image -> encrypt.format, encrypt.key-secret
//	metadata_cache/max_size   -> cache-size (bytes)
//	driver@discard_no_unref   -> discard-no-unref
//	<dataStore>               -> data-file
//	<backingStore>            -> backing: a node; null where it is empty; absent where there is none
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsQcow2.
func (b *builder) format(image Image, file string, l layer, below links, top bool) string {
	role := l.role(RolePayloadFormat, RoleHeaderFormat)
	o := Object{{"node-name", b.name(role)}}
	b.addAccess(&o, l, top)
	o.Add("driver", formats[image.Format].driver)
	n := Node{Role: role}
	if enc := image.Encryption; enc != nil && !enc.librbd() && !image.RawLUKS() {
		secret := b.secret(SecretData{Ref: enc.Secrets[0]})
		o.Add("encrypt", Object{{"format", "luks"}, {"key-secret", secret}})
		n.Secrets = []string{secret}
	}
	if image.MetadataCache != 0 {
		o.Add("cache-size", image.MetadataCache)
	}
	if b.disk.DiscardNoUnref != "" && image.Format == FormatQcow2 && !l.header {
		o.Add("discard-no-unref", b.disk.DiscardNoUnref == On)
	}
	if below.data != "" {
		o.Add("data-file", below.data)
		n.Children = append(n.Children, Child{"data-file", below.data})
	}
	o.Add("file", file)
	n.Children = append(n.Children, Child{"file", file})
	switch {
	case below.backing != "":
		o.Add("backing", below.backing)
		n.Children = append(n.Children, Child{"backing", below.backing})
	case image.Terminated && formats[image.Format].backing:
		o.Add("backing", nil)
	}
	n.Options = o
	return b.add(n)
}

// luks adds the LUKS node over the payload and, where it is detached, the
// header.
//
//	<encryption format='luks'> of a raw image, or of any with a <header> -> driver luks
//	encryption/secret -> key-secret, an object secret
//	encryption/header -> header: a node
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsLUKS; the header member is
// known to QEMU 9.0 and later.
func (b *builder) luks(header, payload, secret string, l layer) string {
	role := RoleLUKS.at(l.number)
	o := Object{{"node-name", b.name(role)}}
	b.addAccess(&o, l, true)
	o.Add("driver", "luks")
	o.Add("key-secret", secret)
	var children []Child
	if header != "" {
		o.Add("header", header)
		children = append(children, Child{"header", header})
	}
	o.Add("file", payload)
	return b.add(Node{Role: role, Options: o, Secrets: []string{secret}, Children: append(children, Child{"file", payload})})
}

// copyOnRead adds the filter of driver@copy_on_read. See QEMU's
// docs/interop/qemu-qmp-ref, BlockdevOptionsCor.
func (b *builder) copyOnRead(file string) string {
	o := Object{{"driver", "copy-on-read"}, {"node-name", b.name(RoleCopyOnRead)}, {"file", file}, {"discard", "unmap"}}
	return b.add(Node{Role: RoleCopyOnRead, Options: o, Children: []Child{{"file", file}}})
}

// addAccess adds the access mode of a node, which depends on its position, and the cache
// mode. top is true for the top node of an image.
func (b *builder) addAccess(o *Object, l layer, top bool) {
	switch {
	case l.header:
		// QEMU passes the disk's write permission on to the header: a header that cannot
		// be written must fail when it opens, not at the device. It is read only once,
		// so it needs no cache mode.
		o.Add("read-only", l.readOnly)
		return
	case top:
		o.Add("read-only", l.readOnly)
		o.AddText("discard", b.disk.Driver.Discard)
		if l.overlay || l.number == 0 && !b.disk.Transient {
			o.AddText("detect-zeroes", b.detectZeroes())
		}
	default:
		// The node above decides whether to write, and whether to discard.
		if b.renamed {
			o.Add("read-only", l.readOnly)
		} else {
			o.Add("auto-read-only", true)
		}
		o.Add("discard", "unmap")
	}
	b.addCache(o)
}

// addCache adds the cache mode.
func (b *builder) addCache(o *Object) {
	if mode, ok := cacheModes[b.disk.cacheMode()]; ok {
		o.Add("cache", Object{{"direct", mode.direct}, {"no-flush", mode.noFlush}})
	}
}

// detectZeroes returns the disk's mode. As in libvirt, unmap without discard becomes "on",
// because QEMU refuses it.
func (b *builder) detectZeroes() string {
	if d := b.disk.Driver; d.DetectZeroes == "unmap" && d.Discard != "unmap" {
		return "on"
	}
	return b.disk.Driver.DetectZeroes
}
