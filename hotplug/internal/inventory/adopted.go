package inventory

import (
	"maps"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// VolumeUUID returns the UUID of the LUKS volume that the node decrypts, "" for none.
func (n *Node) VolumeUUID() string {
	if e := n.Image.Specific.Data.Encrypt; e.Format == "luks" {
		return e.UUID
	}
	return n.Image.Specific.Data.UUID
}

// TargetOf returns the target of luksplug's disk that the node belongs to, "" for none.
func (s *State) TargetOf(n Node) string {
	if instance, _, ours := blockgraph.ParseName(n.Name); ours {
		return blockgraph.TargetOf(instance)
	}
	for instance, note := range s.Host.Notes {
		if _, is := s.adoptedNode(note, n); is {
			return blockgraph.TargetOf(instance)
		}
	}
	return ""
}

// adoptedNode returns what a note has of the node; false if the node is not an adopted
// disk's. A volume with another UUID has taken the place of the adopted one.
func (s *State) adoptedNode(note rundir.Note, n Node) (rundir.AdoptedNode, bool) {
	if note.Adopted == nil {
		return rundir.AdoptedNode{}, false
	}
	for _, a := range note.Adopted.Nodes {
		if a.Name == n.Name {
			uuid := n.VolumeUUID()
			same := a.Driver == n.Driver && (a.File == "" || a.File == n.File) && (uuid == "" || uuid == note.UUID)
			return a, same
		}
	}
	return rundir.AdoptedNode{}, false
}

// addAdopted adds the parts of adopted disks, by their notes. An adopted disk exists for as
// long as QEMU has one of its nodes.
func (s *State) addAdopted(disks byInstance) {
	for target, note := range s.Host.Notes {
		var d *AttachedDisk
		for _, n := range s.Nodes {
			a, is := s.adoptedNode(note, n)
			if !is {
				continue
			}
			if d == nil {
				d, _ = disks.of(blockgraph.Name(target, blockgraph.RoleDevice))
			}
			if a.Path != "" {
				n.File = a.Path
			}
			d.Adopted = true
			d.addNode(n, a.Role)
			if d.UUID == "" {
				d.UUID = n.VolumeUUID()
			}
		}
		if d == nil {
			continue
		}
		if secret := note.Adopted.Secret; s.Objects[secret] == "secret" && !note.Adopted.SharedSecret {
			d.Objects = append(d.Objects, secret)
		}
	}
}

// Named returns the state in which the parts of an adopted disk, and of a disk that was copied, have the names and paths
// that a plan gives them, so that they can be compared with it. Nodes without a counterpart in a plan are left out, and
// what QEMU reports as the files of format nodes, which has the names of objects in it. For another disk it returns s.
func (s *State) Named(d *AttachedDisk) *State {
	target := d.Target
	if d.Instance != target {
		return s.named(d)
	}
	note := s.Host.Notes[target]
	if note.Adopted == nil {
		return s
	}
	out := *s
	out.Nodes, out.Drives = nil, slices.Clone(s.Drives)
	names := map[string]string{}
	for _, n := range s.Nodes {
		if a, is := s.adoptedNode(note, n); is {
			if a.Role == "" {
				continue
			}
			names[n.Name] = blockgraph.Name(target, a.Role)
			n.Name, n.File = names[n.Name], a.Path
		}
		out.Nodes = append(out.Nodes, n)
	}
	for i, d := range out.Drives {
		if name := names[d.Node]; name != "" {
			out.Drives[i].Node = name
		}
	}
	out.Host.Notes = maps.Clone(s.Host.Notes)
	note.Adopted = nil
	out.Host.Notes[target] = note
	return &out
}

// named is Named for the other instance of a disk.
func (s *State) named(d *AttachedDisk) *State {
	out := *s
	out.Nodes, out.Drives = nil, slices.Clone(s.Drives)
	for _, n := range s.Nodes {
		instance, role, ours := blockgraph.ParseName(n.Name)
		switch {
		case ours && instance == d.Instance:
			n.Name = blockgraph.Name(d.Target, role)
			if role, _ := role.Base(); !slices.Contains(storageRoles, role) {
				n.File = ""
			}
		case ours && instance == d.Target && role.AboveImages():
			n.File = ParseOptions(n.File).text() // without the options of the images below, which have names in them
		case ours && instance == d.Target:
			continue // of the instance that the device does not use
		}
		out.Nodes = append(out.Nodes, n)
	}
	for i, drive := range out.Drives {
		if instance, role, ours := blockgraph.ParseName(drive.Node); ours && instance == d.Instance {
			out.Drives[i].Node = blockgraph.Name(d.Target, role)
		}
	}
	out.Objects = map[string]string{}
	for id, kind := range s.Objects {
		if instance, role, ours := blockgraph.ParseName(id); ours && instance == d.Instance {
			id = blockgraph.Name(d.Target, role)
		}
		out.Objects[id] = kind
	}
	out.Host.Notes = maps.Clone(s.Host.Notes)
	delete(out.Host.Notes, d.Target)
	if note, noted := out.Host.Notes[d.Instance]; noted {
		delete(out.Host.Notes, d.Instance)
		out.Host.Notes[d.Target] = note
	}
	return &out
}

// storageRoles are the roles of nodes whose file is a path or an address.
var storageRoles = []blockgraph.Role{blockgraph.RolePayloadStorage, blockgraph.RoleHeaderStorage, blockgraph.RoleDataStorage, blockgraph.RoleOverlayStorage}

// NameOf returns the id in QEMU of an object that has the given one in the plan of a disk: the other instance of a disk has
// other names, and the volume of an adopted disk has a secret of another name.
func (s *State) NameOf(d *AttachedDisk, id string) string {
	if a := s.Host.Notes[d.Instance].Adopted; a != nil && a.Secret != "" && id == blockgraph.Name(d.Instance, blockgraph.RoleSecret) {
		return a.Secret
	}
	if instance, role, ours := blockgraph.ParseName(id); ours && instance == d.Target {
		return blockgraph.Name(d.Instance, role)
	}
	return id
}

// Without returns the state without some nodes.
func (s *State) Without(nodes []string) *State {
	out := *s
	out.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n Node) bool { return slices.Contains(nodes, n.Name) })
	return &out
}
