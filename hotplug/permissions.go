package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/access"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// permits is what QEMU opens of a disk on this host, and what stands in the way.
type permits struct {
	user  access.User
	files []access.File
	give  []access.File // those that have to be given to the user first
}

// opened returns the files and block devices of this host that are opened by path
// for the disk, by QEMU or its storage daemon.
func opened(disk *blockgraph.Disk, way blockgraph.Way) []access.File {
	var out []access.File
	add := func(path, what string, write bool) {
		if !slices.ContainsFunc(out, func(f access.File) bool { return f.Path == path }) {
			out = append(out, access.File{Path: path, What: what, Write: write})
		}
	}
	onHost := func(i *blockgraph.Image) bool {
		return i != nil && (i.Source.Kind == blockgraph.SourceFile || i.Source.Kind == blockgraph.SourceBlock)
	}
	for i, layer := range disk.Layers() {
		what, write := "payload", !disk.ReadOnly && !disk.Transient && i == 0
		if i > 0 {
			what = "backing image"
		}
		if onHost(layer) {
			add(layer.Source.Path, what, write)
		}
		if onHost(layer.DataStore) {
			add(layer.DataStore.Source.Path, "data store", write)
		}
		// By ByHeader it is only read here.
		if enc := layer.Encryption; enc != nil && onHost(enc.Header) && way != blockgraph.ByHeader {
			add(enc.Header.Source.Path, "header", write)
		}
		if onHost(layer) && layer.Backing == nil {
			for path := range implied(layer) {
				add(path, "backing image", false)
			}
		}
	}
	return out
}

// implied yields the images below the one at the end of the chain that the XML has:
// those that qcow2 images name themselves.
func implied(layer *blockgraph.Image) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		const deepest = 200 // and a chain that runs in a circle ends
		path, format, terminated := layer.Source.Path, layer.Format, layer.Terminated
		for range deepest {
			if format != blockgraph.FormatQcow2 || terminated {
				return
			}
			info, err := image.Probe(path)
			if err != nil || info.Qcow2 == nil || !info.Qcow2.HasBacking {
				return
			}
			next := info.Qcow2.BackingFile
			if strings.Contains(next, ":") { // a protocol, or JSON
				return
			}
			if !filepath.IsAbs(next) {
				next = filepath.Join(filepath.Dir(path), next)
			}
			if !yield(next) {
				return
			}
			path = next
		}
	}
}

// opener returns as whom the files are opened; the error is [access.ErrUnknown]
// where that is not known.
func (a *attach) opener(ctx context.Context, way blockgraph.Way) (access.User, error) {
	p, err := a.vm.process(ctx)
	if err != nil || p.User == nil {
		return access.User{}, fmt.Errorf("%w: %w", access.ErrUnknown, err)
	}
	if p.PID == 0 {
		return hostproc.UserOf(*p.User), nil
	}
	u := access.User{Credential: *p.User, PID: p.PID}
	if way == blockgraph.ByDaemon {
		u.PID = 0 // it sees the files that we see
	}
	return u, nil
}

// checkPermissions refuses a disk whose images the VM's QEMU may not open.
func (a *attach) checkPermissions(ctx context.Context, way blockgraph.Way) (*permits, error) {
	if !a.vm.filesAreLocal() {
		return &permits{}, nil
	}
	p := &permits{files: opened(a.disk, way)}
	if len(p.files) == 0 {
		return p, nil
	}
	var err error
	if p.user, err = a.opener(ctx, way); err != nil {
		return a.unasked(p, err)
	}
	problems, err := access.Check(p.user, p.files)
	if err != nil {
		return a.unasked(p, err)
	}
	for _, problem := range problems {
		if a.options.Relabel && problem.Relabel && os.Geteuid() == 0 {
			p.give = append(p.give, problem.File)
		}
	}
	if len(p.give) < len(problems) {
		return p, a.denied(p.user, problems)
	}
	if a.options.Relabel && a.vm.labels(ctx).Image != "" {
		p.give = p.files // what the label of a file allows only the policy knows
	}
	return p, nil
}

// unasked goes on where nobody can tell what QEMU may do: QEMU will.
func (a *attach) unasked(p *permits, err error) (*permits, error) {
	if a.options.Relabel {
		return nil, &PreflightError{Target: a.disk.Target, Reason: "the images cannot be given to QEMU's user", Err: err}
	}
	a.vm.log.WithField("disk", a.disk.Target).Debugf("not checked whether QEMU may open the images: %v", err)
	return p, nil
}

// denied is the refusal.
func (a *attach) denied(u access.User, problems []access.Problem) error {
	var reasons, fixes []string
	relabel := true
	for _, p := range problems {
		verb := "read"
		if p.Write {
			verb = "read and write"
		}
		reasons = append(reasons, fmt.Sprintf("may not %s the %s %s: %s", verb, p.What, p.Path, p.Reason))
		for fix := range strings.SplitSeq(p.Fix, " && ") {
			if fix != "" && !slices.Contains(fixes, fix) {
				fixes = append(fixes, fix)
			}
		}
		relabel = relabel && p.Relabel
	}
	text := fmt.Sprintf("QEMU runs as %s and %s", u, strings.Join(reasons, "; it "))
	if len(fixes) > 0 {
		text += fmt.Sprintf(": run `%s`", strings.Join(fixes, " && "))
	}
	switch {
	case relabel && a.options.Relabel:
		text += " (--relabel takes root)"
	case relabel:
		text += ", or attach with --relabel, which does so for as long as the disk is attached"
	}
	return &PreflightError{Target: a.disk.Target, Reason: text}
}

// owners is the registry of what was given to QEMUs on this host.
func (vm *VM) owners() (access.Registry, error) {
	if vm.opts.RunDir == "" && os.Geteuid() == 0 {
		return access.Registry{Dir: access.DefaultDir}, nil
	}
	base, err := vm.runBase()
	return access.Registry{Dir: filepath.Join(base, ownersDir)}, err
}

const ownersDir = "owners"

// taking is what the registry is told of the disk.
func (a *attach) taking(ctx context.Context) (access.Taking, error) {
	t := access.Taking{Files: a.permits.files, Give: a.permits.give, Remembered: a.options.Owners}
	id, err := a.vm.identity(ctx)
	if err != nil {
		return t, err
	}
	t.Use = access.Use{VM: id, Target: a.disk.Target, Boot: hostproc.BootID()}
	if pid := a.permits.user.PID; pid != 0 {
		if t.Use.Process, err = hostproc.ProcessOf(pid); err != nil {
			return t, fmt.Errorf("the VM's process: %w", err)
		}
	}
	t.Owner = access.Owner{UID: a.permits.user.UID, Label: a.vm.labels(ctx).Image}
	return t, nil
}

// permit does what has to be done for QEMU to open the disk's images. tidy takes it
// back.
func (a *attach) permit(ctx context.Context) error {
	if len(a.permits.files) == 0 {
		return nil
	}
	refuse := func(err error) error {
		return &PreflightError{Target: a.disk.Target, Reason: "QEMU cannot be allowed to open the images", Err: err}
	}
	t, err := a.taking(ctx)
	if err != nil {
		return refuse(err)
	}
	registry, err := a.vm.owners()
	if err == nil {
		err = registry.Take(t)
	}
	if err == nil {
		files := a.permits.files
		if a.overlay != nil {
			files = append(slices.Clone(files), access.File{Path: a.overlay.Path, What: "overlay", Write: true})
		}
		err = access.AppArmor{}.Allow(ctx, a.vm.labels(ctx).AppArmor, a.disk.Target, files)
	}
	if err != nil {
		return refuse(err)
	}
	if len(t.Give) == 0 {
		return nil
	}
	problems, err := access.Check(a.permits.user, a.permits.files)
	if err != nil {
		return refuse(err)
	}
	if len(problems) > 0 {
		return a.denied(a.permits.user, problems)
	}
	return nil
}

// labels returns how the VM's process is confined; nothing where that is not known.
func (vm *VM) labels(ctx context.Context) Labels {
	p, err := vm.process(ctx)
	if err != nil {
		return Labels{}
	}
	return p.Labels
}

// forbid takes back what permit did for one disk.
func (vm *VM) forbid(ctx context.Context, target string) error {
	_, err := vm.forbidAll(ctx, func(t string) bool { return t == target }, false)
	return err
}

// forbidAll takes back what permit did for disks of the VM, and returns which files
// went back. With stay they do not.
func (vm *VM) forbidAll(ctx context.Context, targets func(string) bool, stay bool) ([]access.Given, error) {
	id, err := vm.identity(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := vm.owners()
	if err != nil {
		return nil, err
	}
	given, err := registry.Give(access.Giving{Stay: stay, Ended: func(u access.Use) bool { return u.VM == id && targets(u.Target) }})
	if profile := vm.labels(ctx).AppArmor; profile != "" {
		_, e := access.AppArmor{}.Forbid(ctx, profile, targets)
		err = errors.Join(err, e)
	}
	return given, err
}

// forbidOthers takes back what an interrupted run did for disks that the VM does not
// have.
func (vm *VM) forbidOthers(ctx context.Context, s *State) ([]*Holding, error) {
	if !vm.filesAreLocal() {
		return nil, nil
	}
	given, err := vm.forbidAll(ctx, func(target string) bool { return s.Holding(target) == nil }, false)
	var out []*Holding
	for _, g := range given {
		out = append(out, &Holding{Target: g.Use.Target, Given: []string{g.Path}})
	}
	return out, err
}

// Owners returns whose the disk's images on this host are, for a record of a disk
// that is to be given to QEMU's user at a later time.
func Owners(disk *blockgraph.Disk) []access.Owner {
	return access.Owners(opened(disk, blockgraph.ByQEMU), false)
}

// owners returns whose the images are that permit is going to give away.
func (a *attach) owners(ctx context.Context) ([]access.Owner, error) {
	if !a.options.Relabel || len(a.permits.files) == 0 {
		return nil, nil
	}
	t, err := a.taking(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := a.vm.owners()
	if err != nil {
		return nil, err
	}
	return registry.Owners(t)
}
