package blockgraph

import "fmt"

// layer is where in the disk a node stands, which decides the settings that it
// takes over from the disk.
type layer struct {
	top     bool // the node that the device uses
	payload bool // part of the payload, not of the header
}

// storage adds the protocol node of a source.
//
//	<disk type='file'>   source@file -> driver file, filename
//	<disk type='block'>  source@dev  -> driver host_device (host_cdrom for a CD-ROM drive), filename
//	driver@io                        -> aio
//	driver@cache                     -> cache.direct, cache.no-flush
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsFile.
func (b *builder) storage(s Source, role Role, l layer) (string, error) {
	driver := ""
	switch s.Kind {
	case SourceFile:
		driver = "file"
	case SourceBlock:
		driver = "host_device"
		if b.disk.Device == DeviceCDROM && l.payload && s.Path == "/dev/cdrom" {
			driver = "host_cdrom"
		}
	default:
		return "", &UnsupportedError{Element: "disk@type", Reason: fmt.Sprintf("sources of type %q are not supported", s.Kind)}
	}
	options := Object{{"driver", driver}, {"filename", s.Path}}
	if l.payload {
		options.addText("aio", b.disk.Driver.IO)
	}
	options.add("node-name", Name(b.disk.Target, role))
	b.addAccess(&options, l)
	return b.add(role, options, nil), nil
}

// format adds the qcow2 node of an image over its storage.
//
//	driver@type               -> driver
//	<encryption> in the image -> encrypt.format, encrypt.key-secret
//	<backingStore/>           -> backing null
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsQcow2.
func (b *builder) format(image Image, file string, role Role, secret string, l layer) (string, error) {
	if image.Format != FormatQcow2 {
		return "", &UnsupportedError{Element: "disk/driver@type", Reason: fmt.Sprintf("the format %q is not supported: use raw or qcow2", image.Format)}
	}
	options := Object{{"node-name", Name(b.disk.Target, role)}}
	b.addAccess(&options, l)
	options.add("driver", string(image.Format))
	var secretIDs []string
	if secret != "" {
		options.add("encrypt", Object{{"format", "luks"}, {"key-secret", secret}})
		secretIDs = []string{secret}
	}
	options.add("file", file)
	if image.Terminated {
		options.add("backing", nil)
	}
	return b.add(role, options, []Child{{"file", file}}, secretIDs...), nil
}

// luks adds the LUKS node over the payload and, where it is detached, the
// header. See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsLUKS; the
// header member is known to QEMU 9.0 and later.
func (b *builder) luks(header, payload, secret string) string {
	options := Object{{"node-name", Name(b.disk.Target, RoleLUKS)}}
	b.addAccess(&options, layer{top: true, payload: true})
	options.add("driver", "luks")
	options.add("key-secret", secret)
	children := []Child{{"file", payload}}
	if header != "" {
		options.add("header", header)
		children = []Child{{"header", header}, {"file", payload}}
	}
	options.add("file", payload)
	return b.add(RoleLUKS, options, children, secret)
}

// addAccess adds how a node may be used, which depends on where it stands, and
// the cache mode.
func (b *builder) addAccess(o *Object, l layer) {
	switch {
	case l.top:
		b.addTop(o)
	case l.payload:
		// Opened for writing only where the node above wants to write; a hole
		// that the node above punches always reaches the storage.
		o.add("auto-read-only", true)
		o.add("discard", "unmap")
	default:
		// The header must be writable where the disk is: QEMU passes the write
		// permission on to it. Saying so here makes a header that cannot be
		// written fail as it opens, not at the device.
		o.add("read-only", b.disk.ReadOnly)
	}
	if l.payload {
		b.addCache(o)
	}
}

// addTop adds what only the node that the device uses has: the disk's own
// access mode, discard and detect-zeroes.
func (b *builder) addTop(o *Object) {
	o.add("read-only", b.disk.ReadOnly)
	o.addText("discard", b.disk.Driver.Discard)
	zeroes := b.disk.Driver.DetectZeroes
	if zeroes == "unmap" && b.disk.Driver.Discard != "unmap" {
		// QEMU refuses to unmap where discard is off; libvirt turns it into on.
		zeroes = "on"
	}
	o.addText("detect-zeroes", zeroes)
}

// cacheModes is what libvirt's names mean to a block node (formatdomain.html,
// driver@cache), and to the guest: whether the device shows a write cache.
var cacheModes = map[string]struct {
	direct, noFlush bool
	writeCache      string
}{
	"none":         {direct: true, writeCache: "on"},
	"writethrough": {writeCache: "off"},
	"writeback":    {writeCache: "on"},
	"directsync":   {direct: true, writeCache: "off"},
	"unsafe":       {noFlush: true, writeCache: "on"},
}

// addCache adds the cache mode, which libvirt gives to every node of the
// payload. The header does not take part: it is read once, as the disk opens.
func (b *builder) addCache(o *Object) {
	if mode, ok := cacheModes[b.disk.Driver.Cache]; ok {
		o.add("cache", Object{{"direct", mode.direct}, {"no-flush", mode.noFlush}})
	}
}
