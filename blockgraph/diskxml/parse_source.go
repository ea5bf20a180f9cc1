package diskxml

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// sourceKind reads the type attribute of a <disk>, <backingStore>, <dataStore>
// or <header>.
func sourceKind(e *element) (blockgraph.SourceKind, error) {
	switch kind := blockgraph.SourceKind(cmp.Or(e.attr("type"), string(blockgraph.SourceFile))); kind {
	case blockgraph.SourceFile, blockgraph.SourceBlock, blockgraph.SourceDir, blockgraph.SourceNetwork, blockgraph.SourceVolume, blockgraph.SourceNVMe, blockgraph.SourceVHostUser, blockgraph.SourceVHostVDPA:
		return kind, nil
	default:
		return "", e.invalid("type", "unknown type %q: use file, block, network or another that libvirt knows", message.Shorten(string(kind)))
	}
}

// pathAttributes has the attribute that says where an image of a type is. libvirt knows no empty source of other types.
var pathAttributes = map[string]string{"": "file", "file": "file", "block": "dev", "dir": "dir"}

// removable reports whether the element is a <disk> whose drive may be empty.
func removable(disk *element) bool { return blockgraph.DeviceKind(disk.attr("device")).Removable() }

// dropEmptyPath removes an empty path from the <source>, as libvirt does: programs write it for a drive without a medium.
func dropEmptyPath(disk *element) {
	src := disk.child("source")
	if src == nil {
		return
	}
	// A copy: the tokens that libvirtxml reads have the same attributes.
	src.attrs = slices.DeleteFunc(slices.Clone(src.attrs), func(a xml.Attr) bool {
		return a.Value == "" && a.Name.Space == "" && a.Name.Local == pathAttributes[disk.attr("type")]
	})
}

// emptySource reports whether a <disk> has no <source>, or is a drive whose <source> names no image.
func emptySource(disk *element) bool {
	src, path := disk.child("source"), pathAttributes[disk.attr("type")]
	return src == nil || removable(disk) && path != "" && src.attr(path) == ""
}

// parseSource reads a <source>; owner is the element with its type attribute,
// auth the <auth> that belongs to it.
func parseSource(owner, e, auth *element) (blockgraph.Source, error) {
	kind, err := sourceKind(owner)
	if err != nil {
		return blockgraph.Source{}, err
	}
	out := blockgraph.Source{Kind: kind}
	if auth != nil && kind != blockgraph.SourceNetwork && kind != blockgraph.SourceVolume {
		return out, auth.invalid("", "authentication is for a server: a %s has none", kind)
	}
	if out.Slice, err = parseSlice(e); err != nil {
		return out, err
	}
	switch kind {
	case blockgraph.SourceFile:
		err = parsePath(e, "file", &out)
	case blockgraph.SourceBlock:
		if err = parsePath(e, "dev", &out); err == nil {
			out.Reservations, err = parseReservations(e)
		}
	case blockgraph.SourceDir:
		err = parsePath(e, "dir", &out)
	case blockgraph.SourceVHostVDPA:
		err = parsePath(e, "dev", &out)
	case blockgraph.SourceVHostUser:
		err = parseVHostUser(e, &out)
	case blockgraph.SourceNVMe:
		out.NVMe, err = parseNVMe(e)
	case blockgraph.SourceVolume:
		out.Volume, err = parseVolume(e, auth)
	case blockgraph.SourceNetwork:
		out.Network, err = parseNetwork(e, auth)
	}
	return out, err
}

func parsePath(e *element, attr string, out *blockgraph.Source) error {
	if out.Path = e.attr(attr); out.Path == "" {
		return e.invalid(attr, "is missing: a %s source needs the path, and only a cdrom or floppy drive can be empty", out.Kind)
	}
	return nil
}

// parseSlice reads <slices>.
func parseSlice(e *element) (*blockgraph.Slice, error) {
	slices := e.child("slices")
	if slices == nil {
		return nil, nil
	}
	s := slices.child("slice")
	if s == nil {
		return nil, slices.invalid("", "has no <slice>")
	}
	if s.attr("type") != "storage" {
		// libvirt ignores a slice of another type.
		return nil, s.invalid("type", "%q is not known: use type='storage'", message.Shorten(s.attr("type")))
	}
	if s.attr("offset") == "" || s.attr("size") == "" {
		return nil, s.invalid("", "missing offset or size attribute of slice")
	}
	out := &blockgraph.Slice{}
	var err error
	if out.Offset, err = decimal(s, "offset"); err != nil {
		return nil, err
	}
	out.Size, err = decimal(s, "size")
	return out, err
}

// parseReservations reads <reservations>.
func parseReservations(e *element) (*blockgraph.Reservations, error) {
	r := e.child("reservations")
	if r == nil {
		return nil, nil
	}
	if r.attr("managed") == "" {
		return nil, r.invalid("managed", "Missing required attribute 'managed' in element 'reservations'")
	}
	if err := oneOf(r, "managed", "yes", "no"); err != nil {
		return nil, err
	}
	// libvirt chooses the socket of a helper that it manages: the one in the
	// XML of a running VM is not used again.
	if r.attr("managed") == "yes" {
		return &blockgraph.Reservations{Managed: true}, nil
	}
	s := r.child("source")
	switch {
	case s == nil || s.attr("type") == "":
		return nil, r.invalid("", "missing connection type for <reservations/>: with managed='no' the helper's socket is given in a <source>")
	case s.attr("type") != "unix":
		return nil, s.invalid("type", "unsupported connection type %q for <reservations/>: use unix", message.Shorten(s.attr("type")))
	case s.attr("path") == "":
		return nil, s.invalid("path", "missing path for <reservations/>")
	case s.attr("mode") == "":
		return nil, s.invalid("mode", "missing connection mode for <reservations/>: use client")
	case s.attr("mode") != "client":
		return nil, s.invalid("mode", "unsupported connection mode %q for <reservations/>: use client", message.Shorten(s.attr("mode")))
	}
	return &blockgraph.Reservations{Socket: s.attr("path")}, nil
}

func parseNVMe(e *element) (*blockgraph.NVMe, error) {
	if err := oneOf(e, "type", "pci"); err != nil {
		return nil, err
	}
	if err := oneOf(e, "managed", "yes", "no"); err != nil {
		return nil, err
	}
	if e.attr("type") == "" {
		return nil, e.invalid("type", "is missing: use type='pci'")
	}
	n := &blockgraph.NVMe{}
	var err error
	if n.Namespace, err = decimal(e, "namespace"); err != nil {
		return nil, err
	}
	a := e.child("address")
	if a == nil {
		return nil, e.invalid("", "NVMe disk source is missing address")
	}
	at := numbers{e: a}
	n.Device = fmt.Sprintf("%04x:%02x:%02x.%x", at.get("domain", 0xffff), at.get("bus", 0xff), at.get("slot", 0x1f), at.get("function", 7))
	return n, at.err
}

func parseVHostUser(e *element, out *blockgraph.Source) error {
	if e.attr("type") != "unix" {
		return e.invalid("type", "invalid 'type' attribute for vhostuser disk source: use type='unix'")
	}
	if err := oneOf(e, "mode", "client"); err != nil {
		return err
	}
	if out.Path = e.attr("path"); out.Path == "" {
		return e.invalid("path", "is missing: a vhostuser source needs the path of the server's socket")
	}
	r := e.child("reconnect")
	if r == nil {
		return nil
	}
	switch r.attr("enabled") {
	case "yes":
		n, err := decimal(r, "timeout")
		out.Reconnect = uint(n)
		if err == nil && (n == 0 || n > 1<<32) {
			err = r.invalid("timeout", "%d is no delay: give seconds, from 1", n)
		}
		return err
	case "no":
		return nil
	}
	return r.invalid("enabled", "%q is not known: use yes or no", message.Shorten(r.attr("enabled")))
}

// parseVolume reads the <source> of a volume.
func parseVolume(e, auth *element) (*blockgraph.Volume, error) {
	v := &blockgraph.Volume{Pool: e.attr("pool"), Name: e.attr("volume"), Mode: e.attr("mode")}
	if v.Pool == "" || v.Name == "" {
		return nil, e.invalid("", "'pool' and 'volume' must be specified together for 'pool' type source")
	}
	if err := oneOf(e, "mode", "host", "direct"); err != nil {
		return nil, err
	}
	if auth == nil {
		return v, nil
	}
	var err error
	v.Auth, err = parseAuth(auth, "volume")
	return v, err
}
