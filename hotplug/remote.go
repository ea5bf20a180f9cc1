package hotplug

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
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// remoteImage reads an image that is no file of this host, through a storage
// daemon that has QEMU's own drivers for it: nothing else speaks all of the
// protocols that a disk may have. The daemon has the image open for reading only,
// and copies the parts that are asked for into a file in memory.
//
// It is used by one goroutine at a time, but for ReadAt.
type remoteImage struct {
	ctx    context.Context // of the attach that reads it
	daemon *daemon.Daemon
	node   string
	size   int64                // bytes that a guest would see
	folder string               // for the parts; in memory
	user   *hostproc.Credential // as whom the daemon runs, nil for ourselves

	busy  chan struct{} // holds a value while a part is copied
	parts map[int64][]byte
}

// part is how much is copied at once: a LUKS header has most of what a passphrase
// needs within the first.
const part = 1 << 20

// openRemote starts a storage daemon and opens the image in it.
func (a *attach) openRemote(ctx context.Context, image blockgraph.Image) (_ *remoteImage, err error) {
	graph, err := blockgraph.BuildImage(a.disk.Target, image)
	if err != nil {
		return nil, err
	}
	values, err := Resolve(ctx, graph, a.store, Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	folder, err := a.vm.handOverPath(ctx, a.disk.Target)
	if err != nil {
		return nil, err
	}
	folder += readSuffix
	if err := stopReader(ctx, folder); err != nil { // of an interrupted run
		return nil, err
	}
	if err := a.vm.makeRunDir(ctx); err != nil {
		return nil, err
	}
	options, err := a.readerOptions(ctx, image, folder)
	if err != nil {
		return nil, err
	}
	r := &remoteImage{ctx: ctx, folder: folder, user: options.User, node: graph.Top().Name, busy: make(chan struct{}, 1), parts: map[int64][]byte{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.vm.closeRemote(ctx, r))
		}
	}()
	if r.daemon, err = daemon.Start(ctx, options); err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, remoteWait)
	defer cancel()
	for _, s := range graph.Plan().Steps {
		cmd, err := values.command(s.Do)
		if err != nil {
			return nil, err
		}
		_, err = r.daemon.Client().Execute(opening, cmd)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("%w (%w)", errNoAnswer, ctx.Err())
		case err != nil && opening.Err() != nil:
			return nil, fmt.Errorf("%w within %s", errNoAnswer, remoteWait)
		case err != nil:
			return nil, fmt.Errorf("a storage daemon was to open it before the VM does (%s %s): %w", s.Do.Execute, s.Subject, err)
		}
	}
	return r, r.ask(ctx)
}

// readerOptions makes the folder of a daemon that reads, and says how to start
// it. What it is let in for at a server must be what QEMU is: so it is QEMU's user
// there, with QEMU's SSH agent. What this host has may be for luksplug alone to
// read, as the original of an ephemeral header is.
func (a *attach) readerOptions(ctx context.Context, image blockgraph.Image, folder string) (daemon.Options, error) {
	o := daemon.Options{Dir: filepath.Join(folder, readDaemon)}
	owner, err := a.vm.process(ctx)
	if err != nil {
		owner = nil // as ourselves, then
	}
	o.Env = owner.SSHAgent()
	if owner != nil && image.Source.Kind == blockgraph.SourceNetwork {
		o.User = owner.User
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return o, fmt.Errorf("folder for a storage daemon: %w", err)
	}
	if o.User != nil && int(o.User.UID) != os.Geteuid() { // has to pass through
		if err := os.Chmod(folder, 0o711); err != nil {
			return o, fmt.Errorf("folder for a storage daemon: %w", err)
		}
	}
	return o, nil
}

// remoteWait bounds the wait for a server. A QEMU that is told to open an image
// of a server that does not answer stands still: better that a daemon finds out.
const remoteWait = 15 * time.Second

// ask finds out the size.
func (r *remoteImage) ask(ctx context.Context) error {
	value, err := r.daemon.Client().Execute(ctx, queryNodes)
	if err != nil {
		return err
	}
	s := &State{}
	if err := decode(value, &s.Nodes, queryNodes); err != nil {
		return err
	}
	n := s.Node(r.node)
	if n == nil {
		return fmt.Errorf("the storage daemon has no node %s, which it said it had added", r.node)
	}
	r.size = n.Image.VirtualSize
	return nil
}

// closeRemote ends the daemon of an image that was read, and removes its folder.
func (vm *VM) closeRemote(ctx context.Context, r *remoteImage) error {
	if r.daemon != nil {
		closeRead(r.daemon)
	}
	after, cancel := vm.recovery(ctx)
	defer cancel()
	return stopReader(after, r.folder)
}

// The folder of a daemon that only reads stands beside that of the disk.
const (
	readSuffix = ".read"
	readDaemon = "daemon" // in that folder
)

// stopReader ends the daemon of such a folder and removes it. No folder is no
// error.
func stopReader(ctx context.Context, folder string) error {
	if err := daemon.Abort(ctx, filepath.Join(folder, readDaemon)); err != nil {
		return fmt.Errorf("end a storage daemon: %w", err)
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("folder of a storage daemon: %w", err)
	}
	_ = os.Remove(filepath.Dir(folder)) // refused while there is more in it
	return nil
}

// ReadAt implements [io.ReaderAt].
func (r *remoteImage) ReadAt(p []byte, off int64) (int, error) {
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

// fetch copies n bytes at start: a raw node shows them, and a backup job writes
// them into a file in memory.
func (r *remoteImage) fetch(start, n int64) ([]byte, error) {
	path := filepath.Join(r.folder, strconv.FormatInt(start, 10))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer closeRead(f)
	defer func() { _ = os.Remove(path) }() // the folder goes as well
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
			return qmp.ErrConnectionLost
		}
		if text, failed := e.Data["error"].(string); failed {
			return fmt.Errorf("%w: %s", errJob, text)
		}
		return nil
	}
}

// errJob: a job of the storage daemon has failed.
var errJob = errors.New("the storage daemon cannot read the image")

// openedImage is an image that is open in a storage daemon.
type openedImage struct {
	image  blockgraph.Image
	reader *remoteImage
}

// openHeader reads a LUKS header, of an image of this host or of another one. It
// may be read until done is called.
func (a *attach) openHeader(ctx context.Context, image blockgraph.Image) (h *luks.Header, done func(), err error) {
	if readHere(image) {
		return openHeader(image)
	}
	r, err := a.remoteReader(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	h, err = luks.ReadHeader(r)
	return h, func() {}, err
}

// remoteReader opens an image that is not on this host, and keeps it open: it is
// checked first and unlocked after that.
func (a *attach) remoteReader(ctx context.Context, image blockgraph.Image) (*remoteImage, error) {
	image.Encryption, image.Backing, image.DataStore = nil, nil, nil // of no concern to who reads it alone
	if a.servers.open != nil && reflect.DeepEqual(a.servers.open.image, image) {
		return a.servers.open.reader, nil
	}
	a.closeRemote(ctx)
	r, err := a.openRemote(ctx, image)
	if err != nil {
		return nil, err
	}
	a.servers.open = &openedImage{image, r}
	return r, nil
}

// closeRemote ends the storage daemon that was started to read an image.
func (a *attach) closeRemote(ctx context.Context) {
	if a.servers.open == nil {
		return
	}
	if err := a.vm.closeRemote(ctx, a.servers.open.reader); err != nil {
		a.vm.log.WithField("disk", a.disk.Target).Warnf("%v", err)
	}
	a.servers.open = nil
}
