// Package grant lets the VM's QEMU open the images of a disk: it finds the images that
// QEMU may not open ([Check]), gives them to QEMU's user for as long as the disk is
// attached ([Grants.Take]), and returns them ([Revoke]).
package grant

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Grants are the files that QEMU opens for a disk on this host, and those of them that it may not open yet.
type Grants struct {
	// Target is the disk's target.
	Target string
	// User is the user that opens the files.
	User hostproc.User
	// Files are the files that are opened by path, Give those of them that have to be
	// given to the user first.
	Files, Give []access.File
	// Owners are recorded owners of files that were given away before.
	Owners []access.Owner
}

// Opened returns the files and block devices of this host that QEMU or its storage daemon
// opens by path for the disk.
func Opened(disk *blockgraph.Disk, way blockgraph.Method) []access.File {
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
		// By MethodEphemeralHeader only luksplug reads it.
		if enc := layer.Encryption; enc != nil && onHost(enc.Header) && way != blockgraph.MethodEphemeralHeader {
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

// implied yields the images below the last one that the XML names: those that the qcow2
// images themselves name.
func implied(layer *blockgraph.Image) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		const deepest = 200 // also ends a chain with a cycle
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

// opener returns the user that opens the files; the error wraps [hostproc.ErrUnknown] if
// it is unknown.
func opener(ctx context.Context, h *host.Host, way blockgraph.Method) (hostproc.User, error) {
	p, err := h.Process(ctx)
	if err != nil || p.User == nil {
		return hostproc.User{}, fmt.Errorf("%w: %w", hostproc.ErrUnknown, err)
	}
	if p.PID == 0 {
		return hostproc.UserOf(*p.User), nil
	}
	u := hostproc.User{Credential: *p.User, PID: p.PID}
	if way == blockgraph.MethodStorageDaemon {
		u.PID = 0 // it sees the same files as this process
	}
	return u, nil
}

// Check refuses a disk whose images the VM's QEMU may not open, with
// [outcome.ErrPermission].
func Check(ctx context.Context, h *host.Host, disk *blockgraph.Disk, way blockgraph.Method, s spec.Spec) (Grants, error) {
	p := Grants{Target: disk.Target, Owners: s.Owners}
	if !h.Local {
		return p, nil
	}
	if p.Files = Opened(disk, way); len(p.Files) == 0 {
		return p, nil
	}
	var err error
	var problems []access.Problem
	if p.User, err = opener(ctx, h, way); err == nil {
		problems, err = access.Check(p.User, p.Files)
	}
	switch {
	case err != nil && s.Relabel:
		return p, &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrPermission, Reason: "the images cannot be given to QEMU's user", Err: err}
	case err != nil: // unknown here: QEMU itself finds out
		h.Entry(disk.Target).Debugf("not checked whether QEMU may open the images: %v", err)
		return p, nil
	}
	for _, problem := range problems {
		if s.Relabel && problem.Relabel && os.Geteuid() == 0 {
			p.Give = append(p.Give, problem.File)
		}
	}
	if len(p.Give) < len(problems) {
		return p, p.denied(problems, s.Relabel)
	}
	if s.Relabel && h.Labels(ctx).Image != "" {
		p.Give = p.Files // what a label allows is known only to the policy
	}
	return p, nil
}

// denied returns the refusal. wanted is true if the caller has asked to give the images to the user.
func (p Grants) denied(problems []access.Problem, wanted bool) error {
	var reasons, fixes []string
	relabel := true
	for _, problem := range problems {
		verb := "read"
		if problem.Write {
			verb = "read and write"
		}
		reasons = append(reasons, fmt.Sprintf("may not %s the %s %s: %s", verb, problem.What, problem.Path, problem.Reason))
		for fix := range strings.SplitSeq(problem.Fix, " && ") {
			if fix != "" && !slices.Contains(fixes, fix) {
				fixes = append(fixes, fix)
			}
		}
		relabel = relabel && problem.Relabel
	}
	e := &outcome.PreflightError{Target: p.Target, Cause: outcome.ErrPermission}
	e.Reason = fmt.Sprintf("QEMU runs as %s and %s", p.User, strings.Join(reasons, "; it "))
	if len(fixes) > 0 {
		e.Reason += fmt.Sprintf(": run `%s`", strings.Join(fixes, " && "))
	}
	switch {
	case relabel && wanted:
		e.Cause = outcome.ErrRelabelNeedsRoot
	case relabel:
		e.Cause = outcome.ErrRelabelWouldHelp
	}
	return e
}

// taking returns the registry's request for the disk.
func (p Grants) taking(ctx context.Context, h *host.Host) (access.Request, error) {
	t := access.Request{Files: p.Files, Grant: p.Give, Remembered: p.Owners}
	id, err := h.ID(ctx)
	if err != nil {
		return t, err
	}
	t.Use = access.Use{VM: id, Target: p.Target, Boot: hostproc.BootID()}
	if pid := p.User.PID; pid != 0 {
		if t.Use.Process, err = host.ProcessIdentity(pid); err != nil {
			return t, err
		}
	}
	t.Owner = access.Owner{UID: p.User.UID, Label: h.Labels(ctx).Image}
	return t, nil
}

// Take grants QEMU access to the disk's images, and to its overlay, if any. [Revoke]
// undoes it.
func (p Grants) Take(ctx context.Context, h *host.Host, overlay *blockgraph.Overlay) error {
	if len(p.Files) == 0 {
		return nil
	}
	refuse := func(err error) error {
		return &outcome.PreflightError{Target: p.Target, Cause: outcome.ErrPermission, Reason: "QEMU cannot be allowed to open the images", Err: err}
	}
	t, err := p.taking(ctx, h)
	if err != nil {
		return refuse(err)
	}
	registry, err := h.Owners()
	if err == nil {
		err = registry.Grant(t)
	}
	if err == nil {
		files := p.Files
		if overlay != nil {
			files = append(slices.Clone(files), access.File{Path: overlay.Path, What: "overlay", Write: true})
		}
		err = access.AppArmor{}.Grant(ctx, h.Labels(ctx).AppArmor, p.Target, files)
	}
	if err != nil {
		return refuse(err)
	}
	if len(t.Grant) == 0 {
		return nil
	}
	problems, err := access.Check(p.User, p.Files)
	if err != nil {
		return refuse(err)
	}
	if len(problems) > 0 {
		return p.denied(problems, true)
	}
	return nil
}

// Before returns the present owners of the images that [Grants.Take] is going to give away.
func (p Grants) Before(ctx context.Context, h *host.Host, s spec.Spec) ([]access.Owner, error) {
	if !s.Relabel || len(p.Files) == 0 {
		return nil, nil
	}
	t, err := p.taking(ctx, h)
	if err != nil {
		return nil, err
	}
	registry, err := h.Owners()
	if err != nil {
		return nil, err
	}
	return registry.Owners(t)
}

// Revocation selects what [Revoke] undoes.
type Revocation struct {
	// Targets selects disks of the VM.
	Targets func(target string) bool
	// Stay leaves the files with QEMU's user, for a QEMU on another host that still uses them.
	Stay bool
}

// Revoke undoes [Grants.Take] for disks of the VM, and returns the files that were
// returned to their owners. It may be repeated.
func Revoke(ctx context.Context, h *host.Host, r Revocation) ([]access.Returned, error) {
	id, err := h.ID(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := h.Owners()
	if err != nil {
		return nil, err
	}
	vm := rundir.VM{Process: h.ProcessID(ctx)}
	given, err := registry.Revoke(access.Revocation{Stay: r.Stay, Ended: func(u access.Use) bool {
		return u.VM == id && r.Targets(u.Target) && !vm.Foreign(u.Process)
	}})
	if profile := h.Labels(ctx).AppArmor; profile != "" {
		_, e := access.AppArmor{}.Revoke(ctx, profile, r.Targets)
		err = errors.Join(err, e)
	}
	return given, err
}
