package blockgraph

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// namespace begins every name that this package gives, and otherNamespace those of a disk's other instance. They have
// the same length, because QEMU's names are short.
const (
	namespace      = "luksplug-"
	otherNamespace = "luksplug."
)

// otherSuffix ends the name of a disk's other instance.
const otherSuffix = ".2"

// OtherInstance returns the other instance of a disk. The parts of a disk in QEMU and on its host are an instance, which
// usually has the name of the disk's target, such as "vdb". While a disk is copied to another volume, the parts of that
// volume are the disk's other instance, "vdb.2": QEMU renames nothing, so they keep their names when the device uses the
// new volume, and the next copy is named "vdb" again. The device has no other instance.
func OtherInstance(instance string) string {
	if target, other := strings.CutSuffix(instance, otherSuffix); other {
		return target
	}
	return instance + otherSuffix
}

// TargetOf returns the target of the disk that an instance belongs to.
func TargetOf(instance string) string { return strings.TrimSuffix(instance, otherSuffix) }

// UserAlias begins every user alias; libvirt reserves all others.
const UserAlias = "ua-"

// Role is the function of a node, object or device for its disk: the last part of its name.
//
// The roles below are those of the top layer, the image that <source> names. The layers
// under it are numbered from 1; the number precedes a shorter role:
//
//	top layer         layer 2
//	payload-storage   b2-storage
//	payload-slice     b2-slice
//	payload-format    b2-format
//	luks              b2-luks
//	header-storage    b2-h-storage
//	header-slice      b2-h-slice
//	header-format     b2-h-format
//	header-fdset      b2-h-fdset
//	data-storage      b2-d-storage
//
// [Role.Base] splits such a role. Secrets and other objects are numbered in the whole disk:
// secret0, secret1, tls0, pr0.
type Role string

// The roles of nodes, from the top down, and of what else a disk may bring.
const (
	RoleFilter         Role = "filter"          // and a number: passes requests at the rate of a throttle group
	RoleCopyOnRead     Role = "cor"             // copies data read from the layers below into the top one
	RoleOverlayFormat  Role = "overlay-format"  // a transient disk's overlay, over all layers
	RoleOverlayStorage Role = "overlay-storage" // the overlay's protocol node
	RoleLUKS           Role = "luks"            // decrypts a raw payload
	RolePayloadFormat  Role = "payload-format"  // the payload's format node, such as qcow2
	RolePayloadSlice   Role = "payload-slice"   // the part of the storage that holds the payload
	RolePayloadStorage Role = "payload-storage" // the payload's protocol node
	RoleHeaderFormat   Role = "header-format"   // a detached header's format node
	RoleHeaderSlice    Role = "header-slice"    // the part of the storage that holds the header
	RoleHeaderStorage  Role = "header-storage"  // a detached header's protocol node
	RoleHeaderFDSet    Role = "header-fdset"    // the descriptor set an ephemeral header is passed in
	RoleDataStorage    Role = "data-storage"    // the protocol node of a data store
	RoleFDSet          Role = "fdset"           // the descriptor set a device of the host is passed in
	RoleSecret         Role = "secret0"         // the first secret object
	RoleChardev        Role = "chardev"         // the connection to a vhost-user server
	RoleController     Role = "scsi"            // a SCSI controller added for the disk
	RoleCopy           Role = "copy"            // the block job that copies the disk to its other instance
	RoleGuard          Role = "copying"         // keeps the VM from being migrated meanwhile, see Guard
	RoleGuardFDSet     Role = "copying-fdset"   // the descriptor set the guard's image is passed in
	RoleDevice         Role = ""                // the frontend device itself
)

const longestRole = RolePayloadStorage

// maxLayers is how many layers a disk may have: two digits in a name.
const maxLayers = 100

// deeper are the roles of the layers under the top one, by those of the top layer.
var deeper = map[Role]string{
	RoleLUKS: "luks", RolePayloadFormat: "format", RolePayloadSlice: "slice", RolePayloadStorage: "storage",
	RoleHeaderFormat: "h-format", RoleHeaderSlice: "h-slice", RoleHeaderStorage: "h-storage", RoleHeaderFDSet: "h-fdset",
	RoleDataStorage: "d-storage",
}

// at returns the role that r has in a layer; 0 is the top one.
func (r Role) at(layer int) Role {
	if layer == 0 {
		return r
	}
	return Role("b" + strconv.Itoa(layer) + "-" + deeper[r])
}

// Base splits the role of a node into that of the top layer and the number of the layer. A
// role of no layer is returned unchanged.
func (r Role) Base() (role Role, layer int) {
	rest, ok := strings.CutPrefix(string(r), "b")
	if !ok {
		return r, 0
	}
	digits, suffix, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n >= maxLayers {
		return r, 0
	}
	for base, short := range deeper {
		if short == suffix && base.at(n) == r {
			return base, n
		}
	}
	return r, 0
}

// IsFilter reports whether r is that of a node of a throttle group.
func (r Role) IsFilter() bool { return strings.HasPrefix(string(r), string(RoleFilter)) }

// AboveImages reports whether r is that of a node over the disk's images, which stays when the disk is copied to other ones.
// It always has the name of the first instance.
func (r Role) AboveImages() bool { return r.IsFilter() || r == RoleCopyOnRead }

func namePrefix(instance string) string { return Name(instance, RoleDevice) + "-" }

// Name returns the name in QEMU for a role of an instance of a disk, see [OtherInstance]: the device id for RoleDevice.
func Name(instance string, role Role) string {
	target, other := strings.CutSuffix(instance, otherSuffix)
	name := namespace + target
	if other {
		name = otherNamespace + target
	}
	if role == RoleDevice {
		return name
	}
	return name + "-" + string(role)
}

// ParseName splits a name in QEMU. ok is false for a name that is not [Name]'s, such as libvirt's.
func ParseName(name string) (instance string, role Role, ok bool) {
	rest, ok := strings.CutPrefix(name, namespace)
	other := false
	if !ok {
		if rest, other = strings.CutPrefix(name, otherNamespace); !other {
			return "", "", false
		}
	}
	target, suffix, hasRole := strings.Cut(rest, "-")
	if _, _, err := ParseTarget(target); err != nil || hasRole && suffix == "" {
		return "", "", false
	}
	if other {
		return OtherInstance(target), Role(suffix), true
	}
	return target, Role(suffix), true
}

// ParseTarget splits a target such as "vdb" into the prefix and the number of the letters (a
// is 0, z 25, aa 26). The error says why a target is not valid.
func ParseTarget(dev string) (prefix string, index int, err error) {
	for _, p := range []string{"vd", "sd", "hd", "fd", "xvd", "ubd"} {
		rest, ok := strings.CutPrefix(dev, p)
		if !ok || rest == "" {
			continue
		}
		letters := strings.TrimRight(rest, "0123456789")
		if letters == "" {
			break
		}
		n := 0
		for _, c := range letters {
			if c < 'a' || c > 'z' || n > 1<<20 {
				return "", 0, fmt.Errorf("unknown disk name %q: use a name such as vda, sdb or hdc, and fda for a floppy", message.Shorten(dev))
			}
			n = n*26 + int(c-'a') + 1
		}
		if letters != rest {
			return "", 0, fmt.Errorf("invalid disk target %q: partitions can't appear in disk targets", message.Shorten(dev))
		}
		return p, n - 1, nil
	}
	return "", 0, fmt.Errorf("unknown disk name %q: use a name such as vda, sdb or hdc, and fda for a floppy", message.Shorten(dev))
}

// OtherTarget advises a target for a disk whose own is among those that are taken: the first
// free one with its prefix. It names the taken ones.
func OtherTarget(target string, taken []string) string {
	prefix, _, err := ParseTarget(target)
	if err != nil {
		return "give it another target"
	}
	taken = slices.Compact(slices.Sorted(slices.Values(taken)))
	for n := 0; ; n++ {
		if free := prefix + letters(n); !slices.Contains(taken, free) {
			return fmt.Sprintf("give this one a free target, such as %s (taken are %s)", free, message.Shorten(strings.Join(taken, ", ")))
		}
	}
}

// letters is the inverse of [ParseTarget] for the number of the letters.
func letters(n int) string {
	const alphabet = 26
	text := ""
	for n++; n > 0; n = (n - 1) / alphabet {
		text = string(rune('a'+(n-1)%alphabet)) + text
	}
	return text
}
