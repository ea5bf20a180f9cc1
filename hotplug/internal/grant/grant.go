// Package grant lets the VM's QEMU open the images of a disk: it finds the images that
// QEMU may not open ([Check]), gives them to QEMU's user for as long as the disk is
// attached ([Grants.Take]), and returns them ([Revoke]).
package grant

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
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
	// Profile is the VM's AppArmor profile, "" for none.
	Profile string
}

// Opened returns the files and block devices of this host that QEMU or its storage daemon
// opens by path for the disk. Those that only its images name are among them if the spec
// trusts the images.
func Opened(disk *blockgraph.Disk, way blockgraph.Method, s spec.Spec) []access.File {
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
	}
	if !s.TrustImageChain {
		return out
	}
	for _, layer := range disk.Layers() {
		if !onHost(layer) {
			continue
		}
		for _, path := range implied(layer) {
			if !slices.ContainsFunc(out, func(f access.File) bool { return f.Path == path }) {
				out = append(out, access.File{Path: path, What: "image", Implied: true})
			}
		}
	}
	return out
}

// implied returns the files of this host that qcow2 images name and the XML does not: the
// data file of the layer, and below the last one that the XML names its backing files,
// with their data files.
func implied(layer *blockgraph.Image) []string {
	var out []string
	const deepest = 200 // also ends a chain with a cycle
	path, named := layer.Source.Path, layer
	for range deepest {
		info, err := image.Probe(path)
		if err != nil || info.Qcow2 == nil || named != nil && named.Format != blockgraph.FormatQcow2 {
			return out
		}
		next := ""
		for _, ref := range info.Qcow2.References() {
			file, local := ref.Path(path)
			switch {
			case !local: // a protocol, or JSON
			case ref.Role == image.Backing && (named == nil || named.Backing == nil && !named.Terminated):
				out, next = append(out, file), file
			case ref.Role == image.Data && (named == nil || named.DataStore == nil):
				out = append(out, file)
			}
		}
		if next == "" {
			return out
		}
		path, named = next, nil
	}
	return out
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
	p := Grants{Target: disk.Target}
	if !h.Local {
		return p, nil
	}
	p.Profile = profile(ctx, h)
	if p.Files = Opened(disk, way, s); len(p.Files) == 0 {
		return p, nil
	}
	if _, err := h.Owners(); err != nil {
		return p, err // after a change it could not be undone
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
	if err := p.systemFiles(ctx, h, problems, s); err != nil {
		return p, err
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
		p.Give = access.Named(p.Files) // what a label allows is known only to the policy
	}
	return p, nil
}

// systemFiles refuses a system file to which QEMU would have to be given access.
func (p Grants) systemFiles(ctx context.Context, h *host.Host, problems []access.Problem, s spec.Spec) error {
	labels := h.Labels(ctx)
	all := labels.AppArmor != "" || s.Relabel && labels.Image != ""
	for _, f := range access.Named(p.Files) {
		missing := slices.ContainsFunc(problems, func(x access.Problem) bool { return x.File == f })
		if (all || missing) && f.System() {
			return &outcome.PreflightError{Target: p.Target, Cause: outcome.ErrSystemFile, Err: access.ErrSystemFile,
				Reason: fmt.Sprintf("QEMU runs as %s and needs access to the %s %s", p.User, f.What, f.Path)}
		}
	}
	return nil
}

// denied returns the refusal. wanted is true if the caller has asked to give the images to the user.
func (p Grants) denied(problems []access.Problem, wanted bool) error {
	var reasons, fixes []string
	relabel, implied := true, false
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
		implied = implied || problem.Implied
	}
	e := &outcome.PreflightError{Target: p.Target, Cause: outcome.ErrPermission}
	e.Reason = fmt.Sprintf("QEMU runs as %s and %s", p.User, strings.Join(reasons, "; it "))
	if len(fixes) > 0 {
		e.Reason += fmt.Sprintf(": run `%s`", strings.Join(fixes, " && "))
	}
	if implied {
		e.Reason += "; what only an image names is given to nobody: write it into the XML if it is meant"
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
	t := access.Request{Files: p.Files, Grant: p.Give}
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

// profile returns the AppArmor profile that libvirt has made for the VM; "" for none, and
// for another: the domain's XML can name the profile of any VM.
func profile(ctx context.Context, h *host.Host) string {
	name := h.Labels(ctx).AppArmor
	if id, err := h.ID(ctx); err != nil || name != access.Profile(id) {
		return ""
	}
	return name
}

// rules returns what the VM's QEMU may open for a disk: its files, and what luksplug hands
// over in the disk's own directory.
func rules(ctx context.Context, h *host.Host, target string, files []access.File) ([]access.Rule, error) {
	disk, err := h.Disk(ctx, target)
	if err != nil {
		return nil, err
	}
	out, err := access.RulesFor(files)
	if err != nil {
		return nil, err
	}
	return append(out,
		access.Rule{Path: disk.HandOver(), Below: true, Access: "rwk"},
		access.Rule{Path: daemon.HelperSocket(disk.HandOver()), Access: "rw"}), nil
}

// monitorRules is the owner of the rule for luksplug's monitor.
const monitorRules = "monitor"

// Confine sets what a VM's QEMU may open that is about to start: the files of its disks, by
// target, and the socket that it creates for luksplug's monitor, "" for none. A VM without
// an AppArmor profile of libvirt's may open what its user may.
func Confine(ctx context.Context, h *host.Host, files map[string][]access.File, monitor string) error {
	name := profile(ctx, h)
	if name == "" {
		return nil
	}
	all := map[string][]access.Rule{}
	for target, of := range files {
		var err error
		if all[target], err = rules(ctx, h, target, of); err != nil {
			return err
		}
	}
	if monitor != "" {
		all[monitorRules] = []access.Rule{{Path: monitor, Access: "rw"}}
	}
	return access.AppArmor{}.Replace(ctx, name, all)
}

// Needed reports whether [Grants.Take] has anything to do.
func (p Grants) Needed() bool { return len(p.Files) > 0 || p.Profile != "" }

// Take grants QEMU access to the disk's images, to its overlay, if any, and to what luksplug
// hands over. [Revoke] undoes it.
func (p Grants) Take(ctx context.Context, h *host.Host, overlay *blockgraph.Overlay) error {
	if !p.Needed() {
		return nil
	}
	refuse := func(err error) error {
		cause := outcome.ErrPermission
		if errors.Is(err, access.ErrSystemFile) {
			cause = outcome.ErrSystemFile
		}
		return &outcome.PreflightError{Target: p.Target, Cause: cause, Reason: "QEMU cannot be allowed to open the images", Err: err}
	}
	t, err := p.taking(ctx, h)
	if err != nil {
		return refuse(err)
	}
	registry, err := h.Owners()
	if err == nil {
		err = registry.Grant(t)
	}
	if err == nil && p.Profile != "" {
		err = p.confine(ctx, h, t.Use.Process, overlay)
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

// confine adds the rules for the disk to the VM's profile.
func (p Grants) confine(ctx context.Context, h *host.Host, process hostproc.Process, overlay *blockgraph.Overlay) error {
	files := p.Files
	if overlay != nil {
		files = append(slices.Clone(files), access.File{Path: overlay.Path, What: "overlay", Write: true})
	}
	lines, err := rules(ctx, h, p.Target, files)
	if err != nil {
		return err
	}
	a := access.AppArmor{}
	if process.PID != 0 {
		a.Process = fmt.Sprintf("%d-%d of boot %s", process.PID, process.Start, hostproc.BootID())
	}
	return a.Grant(ctx, p.Profile, p.Target, lines)
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
	if name := profile(ctx, h); name != "" {
		_, e := access.AppArmor{}.Revoke(ctx, name, r.Targets)
		err = errors.Join(err, e)
	}
	return given, err
}
