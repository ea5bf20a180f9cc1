package blockgraph

import "strings"

// namespace begins every name that this package gives.
const namespace = "luksplug-"

// userAlias begins every alias that a user may give; libvirt keeps the others
// for itself.
const userAlias = "ua-"

// Role is what a node, object or device is to its disk: the last part of its
// name.
type Role string

// The roles of nodes, from the top down, and of what else a disk may bring.
const (
	RoleLUKS           Role = "luks"            // decrypts a raw payload
	RolePayloadFormat  Role = "payload-format"  // the payload's qcow2 node
	RolePayloadStorage Role = "payload-storage" // the payload's protocol node
	RoleHeaderFormat   Role = "header-format"   // a detached header's qcow2 node
	RoleHeaderStorage  Role = "header-storage"  // a detached header's protocol node
	RoleHeaderFDSet    Role = "header-fdset"    // the descriptor set an ephemeral header is passed in
	RoleSecret         Role = "secret0"         // the secret object with the passphrase
	RoleController     Role = "scsi"            // a SCSI controller added for the disk
	RoleDevice         Role = ""                // the frontend device itself
)

const longestRole = RolePayloadStorage

func namePrefix(target string) string { return namespace + target + "-" }

// Name returns the name in QEMU of what has this role for the disk at target.
// It is the device id for RoleDevice.
func Name(target string, role Role) string {
	if role == RoleDevice {
		return namespace + target
	}
	return namePrefix(target) + string(role)
}

// ParseName takes a name of QEMU's apart. ok is false for a name that [Name]
// does not give, such as libvirt's.
func ParseName(name string) (target string, role Role, ok bool) {
	rest, ok := strings.CutPrefix(name, namespace)
	if !ok {
		return "", "", false
	}
	target, suffix, hasRole := strings.Cut(rest, "-")
	if _, _, err := splitTarget(target); err != nil || hasRole && suffix == "" {
		return "", "", false
	}
	return target, Role(suffix), true
}
