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
	if target, _, ours := blockgraph.ParseName(n.Name); ours {
		return target
	}
	for target, note := range s.Host.Notes {
		if _, is := s.adoptedNode(note, n); is {
			return target
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
func (s *State) addAdopted(disks byTarget) {
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

// Named returns the state in which the parts of an adopted disk have the names and paths that
// luksplug's own would have, so that they can be compared with a plan. Nodes without a
// counterpart in a plan are left out, and what QEMU reports as the files of format nodes,
// which has the names of objects in it. For another disk it returns s.
func (s *State) Named(target string) *State {
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

// NameOf returns the id in QEMU of a secret that has the given one in the plan of a disk: an
// adopted volume names another object.
func (s *State) NameOf(target, id string) string {
	a := s.Host.Notes[target].Adopted
	if a != nil && a.Secret != "" && id == blockgraph.Name(target, blockgraph.RoleSecret) {
		return a.Secret
	}
	return id
}

// Without returns the state without some nodes.
func (s *State) Without(nodes []string) *State {
	out := *s
	out.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n Node) bool { return slices.Contains(nodes, n.Name) })
	return &out
}
