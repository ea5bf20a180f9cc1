package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// Use is an encrypted disk that is attached to a VM of this host, or a part of a document
// that names secrets.
type Use struct {
	VM      string // its name, socket or id, from the options of the attach
	In      string // the document, such as "its definition"; "" for an attached disk
	Target  string
	Payload string // path of the image
	Header  string // path of the detached header, "" for none
	Secrets []secrets.Reference
}

// Uses returns the encrypted disks that luksplug has attached to VMs of this host, as far
// as this user may read their notes, sorted by directory and target. It queries no VM.
// Disks of VMs that have ended are left out.
func (b Base) Uses() ([]Use, error) {
	entries, err := os.ReadDir(string(b))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find attached disks: %w", err)
	}
	var out []Use
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		notes := VM{Base: b, ID: e.Name()}.Notes()
		for _, instance := range slices.Sorted(maps.Keys(notes)) {
			n, target := notes[instance], blockgraph.TargetOf(instance)
			if len(n.Secrets) > 0 && n.alive() {
				out = append(out, Use{VM: n.VM, Target: target, Payload: n.Payload, Header: n.Header, Secrets: n.Secrets})
			}
		}
	}
	return out, nil
}
