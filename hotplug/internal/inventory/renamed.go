package inventory

import (
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// Rename gives the nodes of files that were renamed while QEMU has them open their present paths, by the notes on the host: QEMU
// reports the old ones for ever. What QEMU reports as the files of format nodes above has the old paths in it, and is left out.
func (s *State) Rename() {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		instance, role, ours := blockgraph.ParseName(n.Name)
		note, noted := s.Host.Notes[instance]
		if !ours || !noted || len(note.Renamed) == 0 {
			continue
		}
		base, _ := role.Base()
		at := slices.IndexFunc(note.Renamed, func(r rundir.RenamedFile) bool { return r.Opened == n.File })
		switch {
		case at >= 0:
			n.File = note.Renamed[at].Path
		case !slices.Contains(storageRoles, base):
			n.File = ""
		}
	}
}
