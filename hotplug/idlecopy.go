package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// IdleCopyOptions are the options of [CopyIdle]. The zero value suits most callers.
type IdleCopyOptions struct {
	// Log, RunDir, Recovery and OnUnlock are as in [Options].
	Log      logrus.FieldLogger
	RunDir   string
	Recovery time.Duration
	OnUnlock func(luks.Progress)
	// From and To are what a caller may allow of either volume.
	From, To Spec
	// Speed bounds the copy, in bytes a second; 0 is no limit.
	Speed int64
	// SetSpeed changes the limit while the copy runs; nil for a limit that does not change.
	SetSpeed <-chan int64
	// Opened is called when both volumes are open, before the first byte is copied; nil for nothing. It marks the new volume as
	// incomplete. An error ends the copy.
	Opened func(ctx context.Context) error
	// Report is called repeatedly from the first byte on, several times a second; nil for nothing.
	Report func(IdleCopy)
}

// IdleCopy is the state of a copy by [CopyIdle].
type IdleCopy struct {
	// Phase is [CopyRunning], [CopyPaused] while the new volume has no room, or [CopyEnded].
	Phase CopyPhase
	// Done and Total are in bytes. Total is less than the size of a volume of which a part was never written.
	Done, Total int64
	// Speed is the limit in bytes a second, 0 for none.
	Speed int64
	// Err is why the copy is paused, nil otherwise.
	Err error
}

// CopyError reports that a copy by [CopyIdle] has ended before its end. The old volume is unchanged and complete, the new one is
// not complete.
type CopyError struct {
	// Target is the disk's target.
	Target string
	// Err is the first error.
	Err error
}

func (e *CopyError) Error() string {
	return fmt.Sprintf("disk %s was not copied: %v; the old volume is complete and as it was, and the new one is incomplete", e.Target, e.Err)
}

// Unwrap returns e.Err.
func (e *CopyError) Unwrap() error { return e.Err }

// CopyIdle copies the volume of a disk that no VM has to another volume of the same size: the content that a guest would see, from
// the disk from to the disk to, whose target does not matter. It returns when the copy is complete and synced. A storage daemon copies (blockdev-mirror of
// QEMU's QMP reference), as [VM.StartCopy] has the VM's QEMU do it, and ends with this process. LUKS volumes are unlocked in
// this process, except for those inside of qcow2 images. How a guest would use the disks does not matter: whether they can be
// written, are transient or copy on read, and their limits.
//
// Meanwhile neither other QEMUs nor luksplug can write the volumes: the storage daemon and this process have QEMU's locks on
// the images, and notes on this host name the headers. A disk that only reads the old volume is not kept away.
//
// While the new volume has no room, the copy is paused; it goes on by itself once there is some. ctx ends it.
//
// Before the first byte is copied the errors are those of an attach, with the causes [ErrImageInUse] for a volume that is attached
// or open, [ErrSize], and [ErrUncopyable]; and that of Opened. Later ones are a [*CopyError]. A [*LeftBehindError] wraps
// either if the storage daemon could not be ended.
func CopyIdle(ctx context.Context, from, to *blockgraph.Disk, store secrets.Store, options IdleCopyOptions) error {
	c, err := newIdleCopy(from, to, store, options)
	if err != nil {
		return err
	}
	if err := c.dir.Base.RemoveCopies(ctx); err != nil {
		c.host.Entry(c.target).Warnf("what an interrupted copy has left cannot be removed: %v", err)
	}
	return c.cleanUp(ctx, c.run(ctx))
}

// idleCopy is one run of [CopyIdle].
type idleCopy struct {
	target   string
	from, to *idleVolume
	host     *host.Host
	dir      rundir.VM
	store    secrets.Store
	options  IdleCopyOptions
}

// idleVolume is one of the two volumes: an instance of the disk, see [blockgraph.OtherInstance].
type idleVolume struct {
	disk     blockgraph.Disk // named by the instance
	instance string
	spec     Spec
	checks   []check.Check
	graph    *blockgraph.Graph
}

func newIdleCopy(from, to *blockgraph.Disk, store secrets.Store, options IdleCopyOptions) (*idleCopy, error) {
	if err := CheckTarget(from.Target); err != nil {
		return nil, err
	}
	c := &idleCopy{target: from.Target, store: store, options: options}
	c.from = &idleVolume{disk: *from, instance: from.Target, spec: options.From, checks: check.IdleSource()}
	c.to = &idleVolume{disk: *to, instance: blockgraph.OtherInstance(from.Target), spec: options.To, checks: check.IdleTarget()}
	base, err := rundir.BaseOf(options.RunDir)
	if err != nil {
		return nil, err
	}
	process, err := hostproc.ProcessOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	info, err := host.LookUpProcess(process.PID)
	if err != nil {
		return nil, err
	}
	c.dir = base.Copy(process)
	c.host = host.New("", options.Log)
	c.host.Name, c.host.Local, c.host.Run = fmt.Sprintf("luksplug itself (process %d copies it)", process.PID), true, options.RunDir
	c.host.FindID = func(context.Context) (string, error) { return c.dir.ID, nil }
	c.host.FindProcess = func(context.Context) (*host.Process, error) { return info, nil }
	if options.Recovery != 0 {
		c.host.Recovery = options.Recovery
	}
	for _, v := range []*idleVolume{c.from, c.to} {
		if err := c.adapt(v); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// adapt removes from a disk what only a guest needs, and refuses one that cannot be copied.
func (c *idleCopy) adapt(v *idleVolume) error {
	if v.disk.Empty || v.disk.Image.Source.Kind == blockgraph.SourceVHostUser {
		return c.refuse(ErrUncopyable, nil, "it has no image that a storage daemon could open")
	}
	v.disk.Transient, v.disk.CopyOnRead, v.disk.ReadOnly = false, false, v == c.from
	if v == c.to {
		// Parts that are zero in the old volume need no space then, if the new one shows them as they are stored.
		v.disk.Driver.Discard = "unmap"
	}
	return v.disk.Validate()
}

// plan builds the graph of a volume.
func (c *idleCopy) plan(v *idleVolume, unlock blockgraph.Unlock) error {
	graph, err := blockgraph.BuildCopy(&v.disk, v.instance, unlock)
	if err != nil {
		return err
	}
	// No VM that could be migrated has the disk, and the daemon has both volumes.
	graph.Nodes = slices.DeleteFunc(graph.Nodes, func(n blockgraph.Node) bool { return graph.GuardOf(n.Name) != nil })
	graph.Guard = nil
	if len(graph.Files) > 0 {
		return c.refuse(ErrUncopyable, nil, "a storage daemon takes no descriptors, and so no vhostvdpa device")
	}
	if len(graph.Headers) > 0 {
		if err := c.dir.Base.Check(); err != nil {
			return c.refuse(ErrHelperProcess, err, "no header can be handed to a storage daemon")
		}
	}
	if v == c.from {
		readOnly(graph)
	}
	v.graph, v.disk.Target = graph, v.instance
	return nil
}

// readOnly has all nodes of a graph opened read-only. A disk's own nodes decide that by the node above them: QEMU would lock a qcow2
// payload of a LUKS volume against this process's lock.
func readOnly(graph *blockgraph.Graph) {
	for i, n := range graph.Nodes {
		if !slices.ContainsFunc(graph.Headers, func(h blockgraph.EphemeralHeader) bool { return h.Node == n.Name }) {
			graph.Nodes[i].Options = n.Options.With("read-only", true)
		}
	}
}

// headers is the part of the directory for the headers, and daemon that for the storage daemon, which has to be empty.
func (c *idleCopy) headers() rundir.Disk { return c.dir.Disk(blockgraph.OtherInstance(c.target)) }
func (c *idleCopy) daemon() string       { return c.dir.Disk(c.target).HandOver() }

// run makes the copy. What it leaves on the host is removed by cleanUp.
func (c *idleCopy) run(ctx context.Context) error {
	var locks idleLocks
	defer locks.release()
	if err := c.lock(&locks); err != nil {
		return err
	}
	d, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(d)
	how, err := c.choose(ctx, d)
	if err != nil {
		return err
	}
	for _, v := range []*idleVolume{c.from, c.to} {
		if err := c.plan(v, how); err != nil {
			return err
		}
		if err := c.note(ctx, v, how); err != nil {
			return err
		}
	}
	if err := c.unnoted(); err != nil {
		return err
	}
	if err := c.open(ctx, d, how, &locks); err != nil {
		return err
	}
	job := idleJob{idleCopy: c, daemon: apply.StorageDaemon{Daemon: d}}
	if err := job.checkSize(ctx); err != nil {
		return err
	}
	if c.options.Opened != nil {
		if err := c.options.Opened(ctx); err != nil {
			return err
		}
	}
	locks.to.release()
	err = job.run(ctx)
	if err == nil {
		err = d.Stop(ctx)
	}
	if err == nil {
		err = c.sync()
	}
	if err != nil {
		return &CopyError{Target: c.target, Err: err}
	}
	return nil
}

// cleanUp ends the storage daemon, if it still runs, and removes the directory. A daemon that has not ended by now has nothing
// to keep: the new volume is not complete.
func (c *idleCopy) cleanUp(ctx context.Context, cause error) error {
	after, cancel := c.host.Recovering(ctx)
	defer cancel()
	if err := errors.Join(daemon.Abort(after, c.daemon()), c.dir.Gone(after)); err != nil {
		return &LeftBehindError{Target: c.target, Left: []string{"the storage daemon or directory in " + c.dir.Path()},
			Remedy: "the next copy of a volume removes it", Err: errors.Join(cause, err)}
	}
	return cause
}

// files returns the images of a layer that are on this host.
func files(layer *blockgraph.Image) []string {
	images := []*blockgraph.Image{layer, layer.DataStore}
	if layer.Encryption != nil {
		images = append(images, layer.Encryption.Header)
	}
	var out []string
	for _, i := range images {
		if i != nil && (i.Source.Kind == blockgraph.SourceFile || i.Source.Kind == blockgraph.SourceBlock) {
			out = append(out, i.Source.Path)
		}
	}
	return out
}

// idleLocks are this process's locks on the images. The storage daemon that only reads the old volume would not keep writers from a
// plain image; the new one it locks itself as soon as it may write it.
type idleLocks struct{ from, to releases }

type releases []func()

func (r *releases) release() {
	for _, unlock := range *r {
		unlock()
	}
	*r = nil
}

func (l *idleLocks) release() {
	l.from.release()
	l.to.release()
}

// lock refuses volumes that are in use, and locks the old one against writers, with all layers.
func (c *idleCopy) lock(locks *idleLocks) error {
	uses, err := c.dir.Base.Uses()
	if err != nil {
		return err
	}
	for _, v := range []*idleVolume{c.from, c.to} {
		for _, u := range uses {
			if v.usedBy(u) {
				return c.inUse(v, u.Target, u.VM)
			}
		}
		for _, path := range files(&v.disk.Image) {
			if err := c.checkUnused(path); err != nil {
				return err
			}
		}
	}
	newer := files(&c.to.disk.Image)
	for _, layer := range c.from.disk.Layers() {
		for _, path := range files(layer) {
			if slices.ContainsFunc(newer, func(other string) bool { return image.SameFile(other, path) }) {
				return c.refuse(ErrImageInUse, nil, "the image %s is one of the old volume and of the new one", path)
			}
			if err := c.lockFile(&locks.from, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockNew locks the new volume, after the checks, which would find the lock.
func (c *idleCopy) lockNew(locks *idleLocks) error {
	for _, path := range files(&c.to.disk.Image) {
		if err := c.lockFile(&locks.to, path); err != nil {
			return err
		}
		if err := image.CheckLock(path, image.Read); err != nil { // another one may have been faster
			return c.refuse(ErrImageInUse, err, "the image %s is in use: end its other use", path)
		}
	}
	return nil
}

func (c *idleCopy) lockFile(locks *releases, path string) error {
	unlock, err := image.LockForReading(path)
	if err != nil {
		return c.refuse(ErrImageUnusable, err, "the image %s cannot be used", path)
	}
	*locks = append(*locks, unlock)
	return nil
}

func (c *idleCopy) inUse(v *idleVolume, target, vm string) error {
	return c.refuse(ErrImageInUse, nil, "the volume %s is in use as disk %s of %s: detach it there first", v.disk.Image.Source, target, vm)
}

// unnoted refuses a volume that has another note, after this copy has written its own: of two copies at once at least one sees the
// note of the other.
func (c *idleCopy) unnoted() error {
	for _, v := range []*idleVolume{c.from, c.to} {
		others, err := c.dir.PayloadUsers(v.disk.Image.Source.String())
		if err != nil {
			return err
		}
		for _, n := range others {
			return c.inUse(v, blockgraph.TargetOf(n.Target), n.VM)
		}
	}
	return nil
}

// usedBy reports whether an attached disk has the volume, or its header.
func (v *idleVolume) usedBy(u Use) bool {
	return u.Payload == v.disk.Image.Source.String() || slices.ContainsFunc(files(&v.disk.Image), func(path string) bool {
		return image.SameFile(u.Payload, path) || image.SameFile(u.Header, path)
	})
}

// checkUnused refuses an image that a QEMU has open, also one that only reads it, or the kernel.
func (c *idleCopy) checkUnused(path string) error {
	err := image.CheckLock(path, image.ReadWrite)
	if err == nil {
		err = image.CheckUnheld(path)
	}
	switch {
	case errors.Is(err, image.ErrLocked), errors.Is(err, image.ErrHeld):
		return c.refuse(ErrImageInUse, err, "the image %s is in use: end its other use", path)
	case err != nil:
		return c.refuse(ErrImageUnusable, err, "the image %s cannot be used", path)
	}
	return nil
}

func (c *idleCopy) refuse(cause, err error, format string, args ...any) error {
	return &PreflightError{Target: c.target, Cause: cause, Reason: fmt.Sprintf(format, args...), Err: err}
}

// note writes the note of a volume, so that no other run of luksplug attaches its header or changes the volume.
func (c *idleCopy) note(ctx context.Context, v *idleVolume, how blockgraph.Unlock) error {
	uuid := ""
	if h := unlock.HeaderOf(ctx, c.host, &v.disk); h != nil {
		uuid = h.UUID
	}
	n, err := c.host.Note(ctx, &v.disk, how.Method, uuid)
	if err != nil {
		return err
	}
	dir, err := c.host.Dir(ctx)
	if err != nil {
		return err
	}
	return dir.WriteNote(n)
}

// start starts the storage daemon. The caller closes it.
func (c *idleCopy) start(ctx context.Context) (*daemon.Daemon, error) {
	if err := c.dir.Make(); err != nil {
		return nil, err
	}
	d, err := daemon.Start(ctx, daemon.Options{Dir: c.daemon(), Owner: c.dir.Process, Tied: true})
	if err != nil {
		return nil, c.refuse(ErrHelperProcess, err, "the storage daemon does not start")
	}
	return d, nil
}

// choose selects the method by which both volumes are opened: by ephemeral headers, which also opens LUKS2. A storage daemon has no
// descriptor sets, so it gets them as files. One that takes no header unlocks the volumes itself, as no guest waits.
func (c *idleCopy) choose(ctx context.Context, d *daemon.Daemon) (blockgraph.Unlock, error) {
	out := blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader, Dir: c.headers().HandOver()}
	schema, err := d.Client().Schema(ctx)
	if err != nil {
		return out, fmt.Errorf("query the storage daemon for its schema: %w", err)
	}
	if unlock.TakesHeader(schema) {
		return out, nil
	}
	for _, v := range []*idleVolume{c.from, c.to} {
		for _, layer := range v.disk.Layers() {
			if layer.Encryption != nil && layer.Encryption.Header != nil {
				return out, c.refuse(ErrHelperProcess, nil, "the volume %s has a detached header, and the storage daemon (%s) takes none, as those since 9.0 do: install a newer one", layer.Source, d.Client().VersionString())
			}
		}
	}
	return blockgraph.Unlock{Method: blockgraph.MethodQEMU}, nil
}

// open checks both volumes, looks their secrets up, and opens them in the storage daemon.
func (c *idleCopy) open(ctx context.Context, d *daemon.Daemon, how blockgraph.Unlock, locks *idleLocks) error {
	var values []*unlock.Values
	defer func() {
		for _, v := range values {
			v.Wipe()
		}
	}()
	var images [2]*remoteimage.Opener
	for i, v := range []*idleVolume{c.from, c.to} {
		images[i] = &remoteimage.Opener{Host: c.host, Store: c.store, Target: v.instance}
		defer images[i].Close(ctx)
		if err := c.check(ctx, v, how, images[i]); err != nil {
			return ofDisk(c.target, err)
		}
	}
	if err := c.lockNew(locks); err != nil {
		return err
	}
	for i, v := range []*idleVolume{c.from, c.to} {
		found, err := unlock.Resolve(ctx, v.graph, c.store, unlock.ToStorageDaemon(), unlock.Unlocker{Open: images[i].Open, Progress: c.options.OnUnlock})
		if err != nil {
			return ofDisk(c.target, err)
		}
		values = append(values, found)
		images[i].Close(ctx)
	}
	user, err := c.host.User(ctx)
	if err != nil {
		return err
	}
	if _, err := c.headers().MakeHandOver(user); err != nil {
		return err
	}
	for i, v := range []*idleVolume{c.from, c.to} {
		if v == c.to && v.disk.Image.Format != blockgraph.FormatRaw {
			locks.to.release() // QEMU locks a qcow2 image when it opens it, and a raw one when it begins to write
		}
		if err := c.openIn(ctx, d, v.graph, values[i], user); err != nil {
			return err
		}
	}
	return nil
}

// openIn opens a volume in the storage daemon. Its header is a file only meanwhile.
func (c *idleCopy) openIn(ctx context.Context, d *daemon.Daemon, graph *blockgraph.Graph, values *unlock.Values, user hostproc.Credential) error {
	remove, err := values.HandOver(graph, user)
	defer remove()
	if err != nil {
		return err
	}
	return apply.OpenInDaemon(ctx, d, graph, values)
}

// check makes the checks of a volume.
func (c *idleCopy) check(ctx context.Context, v *idleVolume, how blockgraph.Unlock, images *remoteimage.Opener) error {
	var searches image.Searches
	defer searches.Wait()
	found, err := check.Run(ctx, &check.Candidate{
		Host: c.host, State: &inventory.State{}, Disk: &v.disk, Plan: v.graph.Plan(), Unlock: how,
		Spec: v.spec, Images: images, Store: c.store, Searches: &searches,
	}, v.checks)
	for _, w := range found.AllWarnings() {
		c.host.Entry(c.target).Warn(w)
	}
	return err
}

// sync syncs the images of the new volume that are on this host. The storage daemon has flushed them, unless the disk's cache mode
// forbids that.
func (c *idleCopy) sync() error {
	for _, path := range files(&c.to.disk.Image) {
		f, err := image.Open(path, os.O_RDWR)
		if err != nil {
			return err
		}
		err = f.Sync()
		fsutil.CloseRead(f)
		if err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	return nil
}

// idleJob is the job of the storage daemon.
type idleJob struct {
	*idleCopy
	daemon apply.StorageDaemon
}

// checkSize refuses volumes of different sizes.
func (j idleJob) checkSize(ctx context.Context) error {
	state, err := inventory.Nodes(ctx, j.daemon)
	if err != nil {
		return err
	}
	var sizes []int64
	for _, v := range []*idleVolume{j.from, j.to} {
		n := state.Node(v.graph.Top().Name)
		if n == nil {
			return fmt.Errorf("the storage daemon has no node %s, which it reported as added", v.graph.Top().Name)
		}
		sizes = append(sizes, n.Image.VirtualSize)
	}
	if sizes[0] != sizes[1] {
		return j.refuse(ErrSize, nil, "the new volume has %d bytes for a guest, and the old one %d: a copy needs the same size", sizes[1], sizes[0])
	}
	return nil
}

// The times of a copy.
const (
	idlePoll   = 100 * time.Millisecond // between two queries
	idleResume = time.Second            // from a pause to the next attempt
)

// run starts the job and waits until it has copied all.
func (j idleJob) run(ctx context.Context) error {
	// Each event is a reason to query the job at once, and nothing more: one that is lost costs a moment.
	events := j.daemon.Daemon.Client().Subscribe("JOB_STATUS_CHANGE")
	defer events.Close()
	changes := events.Events()
	if _, err := j.daemon.Execute(ctx, mirror(j.target, &original{top: &Node{Name: j.from.graph.Top().Name}, converges: true}, j.to.graph.Top().Name, j.options.Speed)); err != nil {
		return j.explain(err)
	}
	poll := time.NewTicker(idlePoll)
	defer poll.Stop()
	var pause idlePause
	completing, speeds := false, j.options.SetSpeed
	for {
		found, err := readJob(ctx, j.daemon, j.target)
		if err != nil {
			return j.explain(err)
		}
		now := newCopy(nil, found)
		if now.Phase == CopyEnded {
			return j.ended(now, completing)
		}
		resume := pause.see(now)
		if !pause.told && pause.err != nil {
			pause.told = true
			j.host.Entry(j.target).Warnf("the copy is paused: %v", pause.err)
		}
		j.report(now, pause)
		switch {
		case resume:
			j.host.Entry(j.target).Debug("the copy is tried again")
			err = j.command(ctx, "block-job-resume", "device")
		case now.ready && found.Status == "ready" && !completing:
			completing = true
			err = j.command(ctx, "job-complete", "id")
		}
		if err != nil {
			return j.explain(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		case _, open := <-changes:
			if !open {
				changes = nil // the next query fails if the daemon has ended
			}
		case speed, open := <-speeds:
			if !open {
				speeds = nil
				continue
			}
			if err := j.command(ctx, "block-job-set-speed", "device", qmp.Member{Name: "speed", Value: speed}); err != nil {
				return j.explain(err)
			}
		}
	}
}

// command sends a command about the job, which the argument named by names.
func (j idleJob) command(ctx context.Context, name, by string, more ...qmp.Member) error {
	_, err := j.daemon.Execute(ctx, qmp.Command{Execute: name, Arguments: append(qmp.Object{{Name: by, Value: copyJob(j.target)}}, more...)})
	return err
}

// errDaemonEnded reports that the storage daemon has ended by itself.
var errDaemonEnded = errors.New("the storage daemon that copied it has ended, such as by a signal")

// explain returns the error of a command of the job.
func (j idleJob) explain(err error) error {
	if monitor.Lost(err) {
		return fmt.Errorf("%w: %w", errDaemonEnded, err)
	}
	return err
}

// errNotAll reports that a job has ended too early, and without an error.
var errNotAll = errors.New("the storage daemon has ended the copy before all was copied")

// ended reports the end of the job. It has copied all if it was complete before.
func (j idleJob) ended(c *Copy, completing bool) error {
	if c.Err == nil && !completing {
		c.Err = errNotAll
	}
	if c.Err == nil {
		j.report(c, idlePause{})
	}
	return c.Err
}

// report calls the caller's Report.
func (j idleJob) report(c *Copy, pause idlePause) {
	if j.options.Report == nil {
		return
	}
	now := IdleCopy{Phase: CopyRunning, Done: c.Done, Total: c.Total, Speed: c.Speed}
	switch {
	case !pause.since.IsZero():
		now.Phase, now.Err = CopyPaused, pause.err
	case c.Phase == CopyEnded:
		now.Phase = CopyEnded
	}
	j.options.Report(now)
}

// idlePause is a pause of the copy: from the first time that it has no room until it has copied more. The job runs for a moment
// after each attempt to resume it.
type idlePause struct {
	since   time.Time // zero for none
	attempt time.Time // the last one
	done    int64
	err     error
	told    bool // by a warning
}

// see takes the state of the job, and reports whether it has to be resumed now.
func (p *idlePause) see(c *Copy) (resume bool) {
	now := time.Now()
	switch {
	case c.Phase != CopyPaused && !p.since.IsZero() && (c.Done > p.done || c.ready):
		*p = idlePause{}
	case c.Phase != CopyPaused:
	case p.since.IsZero():
		*p = idlePause{since: now, attempt: now, done: c.Done, err: c.Err}
	case now.Sub(p.attempt) >= idleResume:
		p.attempt, p.done = now, c.Done
		return true
	}
	return false
}
