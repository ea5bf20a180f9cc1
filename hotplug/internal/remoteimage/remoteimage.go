package remoteimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// Image reads an image through a storage daemon, which has QEMU's drivers: no other
// program supports all protocols of disks. The daemon opens the image read-only, and
// copies the parts that are read into a file in memory.
//
// It is not safe for concurrent use, except for ReadAt.
type Image struct {
	ctx    context.Context // of the attach that reads it
	daemon *daemon.Daemon
	node   string
	size   int64                // bytes that a guest would see
	dir    rundir.Reader        // for the parts; in memory
	user   *hostproc.Credential // that the daemon runs as, nil for this process's user

	busy  chan struct{} // holds a value while a part is copied
	parts map[int64][]byte
}

// part is the size of a copy: a LUKS header has most of what unlocking reads in its first
// part.
const part = 1 << 20

// open starts a storage daemon and opens the image in it.
func (o *Opener) open(ctx context.Context, i blockgraph.Image) (_ *Image, err error) {
	graph, err := blockgraph.BuildImage(o.Target, i)
	if err != nil {
		return nil, err
	}
	values, err := unlock.Resolve(ctx, graph, o.Store, unlock.ToStorageDaemon(), unlock.Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	vm, err := o.Host.Dir(ctx)
	if err != nil {
		return nil, err
	}
	dir := vm.Disk(o.Target).Reader()
	if err := vm.Own(); err != nil {
		return nil, err
	}
	if err := dir.Stop(ctx); err != nil { // a leftover of an interrupted run
		return nil, err
	}
	if err := vm.Make(); err != nil {
		return nil, err
	}
	options := o.daemonOptions(ctx, i, dir)
	if err := dir.Make(options.User); err != nil {
		return nil, err
	}
	r := &Image{ctx: ctx, dir: dir, user: options.User, node: graph.Top().Name, busy: make(chan struct{}, 1), parts: map[int64][]byte{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.stop(ctx, o.Host))
		}
	}()
	if r.daemon, err = daemon.Start(ctx, options); err != nil {
		return nil, err
	}
	opening, cancel := ending.After(ctx, wait)
	defer cancel()
	if err := r.run(opening, graph, values); err != nil {
		if errors.Is(err, outcome.ErrNoAnswer) && ctx.Err() == nil {
			return nil, fmt.Errorf("%w within %s", outcome.ErrNoAnswer, wait)
		}
		return nil, err
	}
	return r, r.querySize(ctx)
}

// daemonOptions returns the options of the daemon. For a server it must have QEMU's
// access, so it runs as QEMU's user with QEMU's SSH agent. A file of this host may be
// readable for luksplug only, as the original of an ephemeral header is.
func (o *Opener) daemonOptions(ctx context.Context, i blockgraph.Image, dir rundir.Reader) daemon.Options {
	options := daemon.Options{Dir: dir.Daemon(), Owner: o.Host.ProcessID(ctx)}
	owner, err := o.Host.Process(ctx)
	if err != nil {
		owner = nil // as this process's user then
	}
	options.Env = owner.SSHAgent()
	if owner != nil && i.Source.Kind == blockgraph.SourceNetwork {
		options.User = owner.User
	}
	return options
}

// run sends the steps of a graph to the daemon. Where ctx ends first, the error wraps
// [outcome.ErrNoAnswer].
func (r *Image) run(ctx context.Context, graph *blockgraph.Graph, values *unlock.Values) error {
	target := apply.StorageDaemon{Daemon: r.daemon}
	err := apply.Steps(ctx, graph.Plan().Steps, func(ctx context.Context, s blockgraph.Step) error {
		return apply.Send(ctx, target, s, values)
	})
	var step *apply.StepError
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w (%w)", outcome.ErrNoAnswer, ctx.Err())
	case errors.As(err, &step):
		return fmt.Errorf("a storage daemon could not open it before the VM does (%s): %w", step.Command(), step.Err)
	}
	return err
}

// Reopen closes the image, and opens it again by another graph of the same node. It then
// shows what that node shows. It has
// no time limit for deriving keys: the server has answered before.
func (r *Image) Reopen(ctx context.Context, graph *blockgraph.Graph, values *unlock.Values) error {
	_, err := r.daemon.Client().Execute(ctx, qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{Name: "node-name", Value: r.node}}})
	if err != nil {
		return err
	}
	if err := r.run(ctx, graph, values); err != nil {
		return err
	}
	clear(r.parts)
	return r.querySize(ctx)
}

// Version returns the daemon's version.
func (r *Image) Version() string { return r.daemon.Client().VersionString() }

// Size implements [image.Reader].
func (r *Image) Size() int64 { return r.size }

// Close implements [image.Reader]. The image stays open until the [Opener] opens another
// one or is closed, because it is first checked and then unlocked.
func (r *Image) Close() error { return nil }

// wait bounds the wait for a server. QEMU would stall when it opens an image of a server
// that does not answer: the daemon finds out first.
const wait = 15 * time.Second

// querySize queries the size.
func (r *Image) querySize(ctx context.Context) error {
	state, err := inventory.Nodes(ctx, apply.StorageDaemon{Daemon: r.daemon})
	if err != nil {
		return err
	}
	n := state.Node(r.node)
	if n == nil {
		return fmt.Errorf("the storage daemon has no node %s, which it reported as added", r.node)
	}
	r.size = n.Image.VirtualSize
	return nil
}

// stop ends the daemon, and removes its directory.
func (r *Image) stop(ctx context.Context, h *host.Host) error {
	if r.daemon != nil {
		_ = r.daemon.Close() // only its resources are released
	}
	after, cancel := h.Recovering(ctx)
	defer cancel()
	return r.dir.Stop(after)
}

// ReadAt implements [io.ReaderAt].
func (r *Image) ReadAt(p []byte, off int64) (int, error) {
	r.busy <- struct{}{}
	defer func() { <-r.busy }()
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.size {
			return done, io.EOF
		}
		start := at / part * part
		if r.parts[start] == nil {
			b, err := r.fetch(start, min(part, r.size-start))
			if err != nil {
				return done, err
			}
			r.parts[start] = b
		}
		done += copy(p[done:], r.parts[start][at-start:])
	}
	return done, nil
}

// fetch copies n bytes at start: a raw node shows them, and a backup job writes them into
// a file in memory.
func (r *Image) fetch(start, n int64) ([]byte, error) {
	path := filepath.Join(string(r.dir), strconv.FormatInt(start, 10))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()       // removed
	defer func() { _ = os.Remove(path) }() // the directory is removed as well
	if r.user != nil && int(r.user.UID) != os.Geteuid() {
		if err := f.Chown(int(r.user.UID), int(r.user.GID)); err != nil {
			return nil, err
		}
	}
	if err := f.Truncate(n); err != nil {
		return nil, err
	}
	const from, to = "part", "copy"
	client := r.daemon.Client()
	events := client.Subscribe("BLOCK_JOB_COMPLETED")
	defer events.Close()
	for _, c := range []qmp.Command{
		{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "raw"}, {Name: "node-name", Value: from}, {Name: "read-only", Value: true},
			{Name: "offset", Value: start}, {Name: "size", Value: n}, {Name: "file", Value: r.node}}},
		{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "file"}, {Name: "node-name", Value: to}, {Name: "filename", Value: path}}},
		{Execute: "blockdev-backup", Arguments: qmp.Object{{Name: "job-id", Value: to}, {Name: "device", Value: from}, {Name: "target", Value: to}, {Name: "sync", Value: "full"}}},
	} {
		if _, err := client.Execute(r.ctx, c); err != nil {
			return nil, fmt.Errorf("read %d bytes at %d in a storage daemon: %w", n, start, err)
		}
	}
	if err := waitJob(r.ctx, events); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d in a storage daemon: %w", n, start, err)
	}
	for _, name := range []string{to, from} {
		if _, err := client.Execute(r.ctx, qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{Name: "node-name", Value: name}}}); err != nil {
			return nil, err
		}
	}
	b := make([]byte, n)
	_, err = f.ReadAt(b, 0)
	return b, err
}

// waitJob waits for the end of the only job.
func waitJob(ctx context.Context, events *qmp.Subscription) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e, open := <-events.Events():
		if !open {
			return events.Err()
		}
		if text, failed := e.Data["error"].(string); failed {
			return fmt.Errorf("%w: %s", errJob, text)
		}
		return nil
	}
}

// errJob reports that a job of the storage daemon has failed.
var errJob = errors.New("the storage daemon cannot read the image")

// Opener opens images for reading: those of this host in this process, others through a
// storage daemon, one at a time.
type Opener struct {
	Host *host.Host
	// Store has the secrets of servers.
	Store secrets.Store
	// Target is the disk's target.
	Target string

	image  blockgraph.Image
	reader *Image // nil for none
}

// Open is an [image.Opener].
func (o *Opener) Open(ctx context.Context, i blockgraph.Image) (image.Reader, error) {
	if unlock.ReadsHere(i) {
		return unlock.OpenLocal(ctx, i)
	}
	r, err := o.OpenRemote(ctx, i)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// OpenRemote opens an image through a storage daemon, with its data store but without a
// backing file. It returns the same reader for the same image until another one is opened.
func (o *Opener) OpenRemote(ctx context.Context, i blockgraph.Image) (*Image, error) {
	i.Encryption, i.Backing = nil, nil // only the image itself is read
	if o.reader != nil && reflect.DeepEqual(o.image, i) {
		return o.reader, nil
	}
	o.Close(ctx)
	r, err := o.open(ctx, i)
	if err != nil {
		return nil, err
	}
	o.image, o.reader = i, r
	return r, nil
}

// Close ends the storage daemon, if there is one. It may be called more than once.
func (o *Opener) Close(ctx context.Context) {
	if o.reader == nil {
		return
	}
	if err := o.reader.stop(ctx, o.Host); err != nil {
		o.Host.Entry(o.Target).Warnf("%v", err)
	}
	o.reader = nil
}
