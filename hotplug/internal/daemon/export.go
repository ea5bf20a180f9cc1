package daemon

import (
	"context"

	"github.com/luksplug/luksplug/qmp"
)

// Export is a block node of the daemon that is served over NBD.
type Export struct {
	Node string // the node-name
	// Name is what a client asks for, and the export's id in the daemon: letters,
	// digits and "-._", a letter first.
	Name string
	// Writable lets clients write. What they write is flushed when they ask for
	// it, as a disk would.
	Writable bool
}

// Export serves a node at [Daemon.Socket], to whoever may enter the folder. It
// lasts until the daemon ends. The error is that of block-export-add.
func (d *Daemon) Export(ctx context.Context, e Export) error {
	_, err := d.client.Execute(ctx, qmp.Command{
		Execute: "block-export-add",
		Arguments: qmp.Object{
			{Name: "type", Value: "nbd"},
			{Name: "id", Value: e.Name},
			{Name: "node-name", Value: e.Node},
			{Name: "name", Value: e.Name},
			{Name: "writable", Value: e.Writable},
		},
	})
	return err
}
