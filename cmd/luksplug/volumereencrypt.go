package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/secrets"
)

// reencryptOptions are the flags of volume reencrypt.
type reencryptOptions struct {
	to, header, layout string
	decrypt, inPlace   bool
	luks1, luks2       bool
	cipher, hash       string
	keyBits            int
	newSecret          bool
	secret             string
	speed              string
	relabel, force     bool
	dryRun             bool
	noWait, discardOld bool
	olderThan, window  string
	all                bool
}

// layouts are the values of --layout.
var layouts = map[string]reencrypt.Layout{
	"raw": reencrypt.LayoutLUKS, "detached": reencrypt.LayoutDetachedRaw, "qcow2": reencrypt.LayoutLUKSInQcow2, "qcow2-detached": reencrypt.LayoutDetachedQcow2,
}

func newVolumeReencrypt(a *app) *cobra.Command {
	var o reencryptOptions
	cmd := &cobra.Command{
		Use:         "reencrypt DISK",
		Annotations: map[string]string{ownLimit: ""},
		Short:       "Give a disk a new data key, also while a VM uses it",
		Long: `reencrypt copies a disk to a new volume with a new data key, and switches to it. The guest
uses its disk meanwhile. A disk that is not encrypted becomes encrypted. The new <disk>
is printed in the end.

DISK is a disk of the VM, as for detach: a target (vdb), the disk's XML, or its image;
without a VM, a volume that no VM has, as for 'volume info': luksplug then copies itself,
and ^C ends that. Of a domain that is off it is the target of a disk of its definition.
Give the XML if the disk has options that the new one is to keep, of a QEMU without
libvirt: QEMU knows only some of them.

The new image is beside the old one, with a number in its name (vm1-vdb-r2.img), or at
--to; its layout is that of the old one, or --layout: raw, detached (the header in a
file of its own), qcow2 (the header inside, which QEMU opens) or qcow2-detached. The old
volume is kept, with the name NAME.old, until 'luksplug volume jobs JOB --discard-old',
or --discard-old at once.

With --in-place the new files have the names of the old ones in the end, so that documents
of the disk stay right. --decrypt makes a volume without encryption.

The new volume keeps the secret of the disk, so that its passphrase opens both; if it may
be known to others, use --with-new-secret, which makes a random one. So does a disk that
is not encrypted. --secret names one that exists, and with --passphrase-file the new
passphrase is yours.

QEMU copies by itself: luksplug waits, and ^C leaves it running, or cancels it, as you
say at the terminal. With --no-wait it only begins. 'luksplug volume jobs' shows what is
running, waits for it, finishes or cancels it, from any process. Exit code 130 means that
luksplug was interrupted and the copy goes on. --timeout bounds each step, and not the
copy. A copy without room is paused, and goes on when there is room.

With --older-than, in place of DISK, all disks of the VM whose data keys are older, or of
unknown age, are re-encrypted, one at a time, the oldest key first; with --all those of all VMs of
this host: of libvirt, and those of a QEMU to which luksplug has attached a disk. What
an earlier run has begun is finished first. With --window 01:00-05:00 no copy is begun
outside of these hours, nor one that is expected to take longer than what is left of
them, unless it is the first. A copy that has begun goes on when the window closes, and
is finished.`,
		Example: `  luksplug --qmp /run/vm1.qmp volume reencrypt vdb --dry-run
  luksplug --qmp /run/vm1.qmp volume reencrypt vdb > vdb.xml
  luksplug --domain vm1 volume reencrypt vdb --with-new-secret --discard-old
  luksplug --domain vm1 volume reencrypt vdb --layout detached --header /srv/headers/vm1-vdb.hdr --to /srv/images/vm1-vdb.img
  luksplug --domain vm1 volume reencrypt vdb --speed 50M --no-wait
  luksplug --domain vm1 volume reencrypt vdb --in-place
  luksplug volume reencrypt /var/lib/images/vm1-vdb.img --with-new-secret
  luksplug volume reencrypt --older-than 90d --all --window 01:00-05:00`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.olderThan != "" {
				if len(args) > 0 {
					return errors.New("--older-than chooses the disks: give it, or DISK")
				}
				return nil
			}
			return arguments("DISK")(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return targets(cmd, a), cobra.ShellCompDirectiveDefault // files as well
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(a); err != nil {
				return err
			}
			if o.olderThan != "" {
				return runReencryptOld(cmd.Context(), a, o)
			}
			return runReencrypt(cmd.Context(), a, o, args[0])
		},
	}
	o.register(cmd)
	return cmd
}

func (o *reencryptOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "the path of the new image: no file, an empty file, or a block device")
	f.StringVar(&o.header, "header", "", "the path of the new LUKS header, outside of the image")
	f.StringVar(&o.layout, "layout", "", "the layout of the new volume: raw, detached, qcow2 or qcow2-detached (default that of the old one; with --header one with a detached header)")
	f.BoolVar(&o.luks1, "luks1", false, "write a LUKS1 header (default the version of the old one)")
	f.BoolVar(&o.luks2, "luks2", false, "write a LUKS2 header; QEMU and libvirt alone open LUKS1 only")
	f.StringVar(&o.cipher, "cipher", "", "the encryption (default that of the old volume)")
	f.IntVar(&o.keyBits, "key-size", 0, "the length of the volume key in bits (default that of the old volume, or the longest of --cipher)")
	f.StringVar(&o.hash, "hash", "", "the hash of the header (default that of the old volume)")
	f.BoolVar(&o.newSecret, "with-new-secret", false, "make a new secret with a random passphrase, instead of keeping that of the disk")
	f.StringVar(&o.secret, "secret", "", "a secret that exists, by its uuid or TYPE:USAGE, for the new volume")
	f.StringVar(&o.speed, "speed", "", "copy no more than this in a second, such as 50M")
	f.BoolVar(&o.relabel, "relabel", false, "give the new image to QEMU's user (and SELinux label) while it is attached, as of attach")
	f.BoolVar(&o.force, "force-room", false, "begin although the new volume may not have room: the copy is paused when it has none")
	f.BoolVar(&o.decrypt, "decrypt", false, "make a volume without encryption: raw, or qcow2 with --layout qcow2")
	f.BoolVar(&o.inPlace, "in-place", false, "give the new files the names of the old ones in the end, so that disk documents stay right")
	f.BoolVar(&o.noWait, "no-wait", false, "begin, and leave QEMU copying: 'luksplug volume jobs' goes on")
	f.BoolVar(&o.discardOld, "discard-old", false, "destroy the old volume when the disk uses the new one, and its secret if it has another one")
	f.StringVar(&o.olderThan, "older-than", "", "re-encrypt the disks whose data keys are older than this, such as 90d, 12w or 36h, or of unknown age")
	f.BoolVar(&o.all, "all", false, "with --older-than, the disks of all VMs of this host")
	f.StringVar(&o.window, "window", "", "with --older-than, the hours in which copies are begun, such as 01:00-05:00 or 22:30-04:00,12:00-13:00")
	registerDryRun(cmd, &o.dryRun)
	complete(cmd, "layout", "raw", "detached", "qcow2", "qcow2-detached")
}

// check returns what contradicts itself in the flags.
func (o *reencryptOptions) check(a *app) error {
	_, known := layouts[o.layout]
	secretsGiven := 0
	for _, given := range []bool{o.newSecret, o.secret != "", a.flags.passphrase != ""} {
		if given {
			secretsGiven++
		}
	}
	switch {
	case o.layout != "" && !known:
		return &usageError{fmt.Errorf("--layout %q: raw, detached, qcow2 and qcow2-detached are possible", o.layout)}
	case o.header != "" && (o.layout == "raw" || o.layout == "qcow2"):
		return &usageError{fmt.Errorf("--header is for a header outside of the image, and --layout %s has it inside", o.layout)}
	case o.decrypt && (o.layout == "detached" || o.layout == "qcow2-detached" || o.header != "" || o.luks1 || o.luks2 || o.cipher != "" || o.keyBits != 0 || o.hash != "" || secretsGiven > 0):
		return &usageError{errors.New("--decrypt makes a volume without a header and a secret: only --layout raw and qcow2 go with it")}
	case o.decrypt && o.olderThan != "":
		return &usageError{errors.New("--decrypt is for one disk, and --older-than is for many")}
	case o.inPlace && o.to != "":
		return &usageError{errors.New("--in-place and --to contradict each other: the new volume gets the name of the old one")}
	case o.luks1 && o.luks2:
		return &usageError{errors.New("--luks1 and --luks2 contradict each other")}
	case o.luks2 && o.layout == "qcow2":
		return &usageError{errors.New("--luks2 and --layout qcow2 contradict each other: QEMU opens a header inside of a qcow2 image, and knows LUKS1 only")}
	case o.keyBits%8 != 0 || o.keyBits < 0:
		return &usageError{fmt.Errorf("--key-size %d: it is in bits, such as 256 or 512", o.keyBits)}
	case secretsGiven > 1:
		return &usageError{errors.New("--with-new-secret, --secret and --passphrase-file contradict each other: each one gives the new volume its passphrase")}
	case o.noWait && o.discardOld:
		return &usageError{errors.New("--no-wait and --discard-old contradict each other: run 'luksplug volume jobs JOB --discard-old' when the disk uses the new volume")}
	case o.olderThan == "" && (o.all || o.window != ""):
		return &usageError{errors.New("--all and --window are for --older-than")}
	case o.olderThan != "" && (o.to != "" || o.header != "" || o.secret != "" || a.flags.passphrase != "" || o.noWait):
		return &usageError{errors.New("--to, --header, --secret, --passphrase-file and --no-wait are for one disk, and --older-than is for many")}
	}
	return nil
}

// request returns what the flags ask for, of any disk.
func (o *reencryptOptions) request() (r reencrypt.Request, err error) {
	r.Layout, r.InPlace = layouts[o.layout], o.inPlace
	if o.decrypt {
		r.Layout = reencrypt.LayoutRaw
		if o.layout == "qcow2" {
			r.Layout = reencrypt.LayoutQcow2
		}
	}
	r.LUKS.Encryption, r.LUKS.KeyBytes, r.LUKS.Hash = o.cipher, o.keyBits/8, o.hash
	switch {
	case o.luks1:
		r.LUKS.Version = 1
	case o.luks2:
		r.LUKS.Version = 2
	}
	if o.to != "" {
		r.Path = absolute(o.to)
	}
	if o.header != "" {
		r.Header = absolute(o.header)
	}
	r.AllowTight, r.Spec.Relabel = o.force, o.relabel
	r.Speed, err = optionalFlagSize("speed", o.speed)
	return r, err
}

// foundDisk is a disk that is to be re-encrypted.
type foundDisk struct {
	at     vmAddress
	vm     reencrypt.VM
	target string
	serial string
	size   int64
	xml    []byte
	spec   hotplug.Spec
	idle   bool // no VM that runs has it
}

// findDisk returns the disk of the VM that the flags name; if they name none, a volume that no VM has.
func findDisk(ctx context.Context, a *app, argument string) (foundDisk, error) {
	if a.flags.domain == "" && a.flags.qmp == "" {
		return findIdle(ctx, a, argument)
	}
	at, err := a.address()
	if err != nil {
		return foundDisk{}, err
	}
	return findInVM(ctx, a, at, argument)
}

// findInVM returns the disk of a VM that an argument names.
func findInVM(ctx context.Context, a *app, at vmAddress, argument string) (out foundDisk, err error) {
	named, err := readDiskArgument(ctx, a, argument)
	if err != nil {
		return out, err
	}
	err = at.with(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
		target, err := named.find(ctx, m)
		if err != nil {
			return err
		}
		out, err = describeAttached(ctx, a, at, m, target, named.xml)
		return err
	})
	return out, err
}

// describeAttached returns a disk of a VM. given is its XML, nil if that is not given.
func describeAttached(ctx context.Context, a *app, at vmAddress, m virtualMachine, target string, given []byte) (foundDisk, error) {
	vm, err := m.VM(ctx)
	if d, is := m.(*libvirtvm.Domain); is && errors.Is(err, libvirtvm.ErrOff) {
		return describeOff(ctx, a, at, d, target)
	}
	if err != nil {
		return foundDisk{}, err
	}
	disks, err := vm.List(ctx)
	if err != nil {
		return foundDisk{}, err
	}
	out := foundDisk{at: at, vm: at.vmOf(a.vm), target: target, xml: given}
	i := slices.IndexFunc(disks, func(d *hotplug.AttachedDisk) bool { return d.Target == target && !d.Leftover() })
	if i < 0 {
		var held []string
		for _, d := range disks {
			held = append(held, d.Target)
		}
		return out, &hotplug.NotHeldError{Target: target, VM: out.vm.Name, Held: held}
	}
	out.size, out.serial = disks[i].Size, disks[i].Serial
	if given != nil {
		if err := checkSameDisk(given, disks[i]); err != nil {
			return out, err
		}
	}
	if d, is := m.(*libvirtvm.Domain); is {
		recorded, err := d.Recorded(ctx, target, disks[i])
		switch {
		case err == nil:
			out.xml, out.spec = recorded.XML, recorded.Spec // that of the user is not what the records are compared with
			return out, nil
		case !errors.Is(err, libvirtvm.ErrNoRecord):
			return out, err
		}
	}
	if out.xml == nil {
		out.xml, err = vm.Document(ctx, target)
	}
	return out, err
}

// checkSameDisk refuses a document that is not that of an attached disk: the volume that it names would be destroyed in the end.
func checkSameDisk(document []byte, disk *hotplug.AttachedDisk) error {
	parsed, err := diskxml.ParseDisk(document)
	if err != nil {
		return err
	}
	header := ""
	if h := parsed.Header(); h != nil {
		header = h.Source.Path
	}
	source := parsed.Image.Source.Path
	if !sameVolume(source, disk.Payload) || (header != "" || disk.Header != "") && !sameVolume(header, disk.Header) || parsed.Encrypted() != (disk.Unlock != "") {
		return &hotplug.PreflightError{Target: disk.Target, Cause: hotplug.ErrTargetTaken, Reason: fmt.Sprintf("the XML is that of another disk than the attached one: its image is %q, its header %q, and the attached ones are %q and %q", source, header, disk.Payload, disk.Header)}
	}
	return nil
}

func runReencrypt(ctx context.Context, a *app, o reencryptOptions, argument string) error {
	disk, err := findDisk(ctx, a, argument)
	if err != nil {
		return err
	}
	p, err := prepareDisk(ctx, a, o, disk)
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.show(costText(p), reencryptionToJSON(p.Entry, &p.Cost, nil, true))
	}
	if disk.idle {
		e, err := reencryptIdle(ctx, a, o, p)
		if err != nil {
			return err
		}
		return showReencrypted(ctx, a, o, e, p, nil)
	}
	e, switched, err := reencryptDisk(ctx, a, o, p)
	if err != nil {
		return err
	}
	return showReencrypted(ctx, a, o, e, p, switched)
}

// prepareDisk makes all checks. It changes nothing.
func prepareDisk(ctx context.Context, a *app, o reencryptOptions, disk foundDisk) (*reencrypt.Prepared, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	r, err := o.request()
	if err != nil {
		return nil, err
	}
	r.Disk, r.Size, r.VM = disk.xml, disk.size, disk.vm
	relabel := r.Spec.Relabel
	r.Spec = disk.spec
	r.Spec.Devices, r.Spec.Relabel = nil, relabel || disk.spec.Relabel
	parsed, err := diskxml.ParseDisk(disk.xml)
	if err != nil {
		return nil, err
	}
	if err := checkNoJob(a, disk, parsed); err != nil {
		return nil, err
	}
	if r.Layout == "" && r.Header != "" {
		r.Layout = reencrypt.LayoutDetachedRaw
		if parsed.Image.Format == blockgraph.FormatQcow2 {
			r.Layout = reencrypt.LayoutDetachedQcow2
		}
	}
	if r.Attached, err = a.uses(); err != nil {
		return nil, err
	}
	if !o.decrypt {
		if err := o.chooseSecret(ctx, a, disk, parsed, &r); err != nil {
			return nil, err
		}
	}
	return reencrypt.Prepare(ctx, r)
}

// errRunning reports that a disk is being re-encrypted already.
var errRunning = errors.New("the disk is being re-encrypted already")

// checkNoJob refuses a disk of which the journal has a re-encryption that has not switched.
func checkNoJob(a *app, disk foundDisk, parsed *blockgraph.Disk) error {
	j, err := a.journal()
	if err != nil {
		return err
	}
	entries, err := j.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		same := e.Disk == disk.target && sameVM(e.VM, disk.vm)
		if disk.vm == (reencrypt.VM{}) {
			same = samePath(e.Source.Payload, parsed.Image.Source.Path)
		}
		if !e.Phase.Switched() && same {
			return &hotplug.PreflightError{Target: disk.target, Cause: errRunning, Reason: fmt.Sprintf("re-encryption %s has begun: 'luksplug volume jobs %s' goes on with it, or cancels it", shortID(e), shortID(e))}
		}
	}
	return nil
}

// sameVM reports whether an entry's VM is another one's.
func sameVM(a, b reencrypt.VM) bool {
	if a.UUID != "" && b.UUID != "" {
		return a.UUID == b.UUID
	}
	return a.Name == b.Name
}

// chooseSecret sets the secret of the new volume.
func (o *reencryptOptions) chooseSecret(ctx context.Context, a *app, disk foundDisk, parsed *blockgraph.Disk, r *reencrypt.Request) error {
	fresh := secrets.Document{Description: cmp.Or(disk.serial, disk.target)}
	passphrase, existing, err := givenPassphrase(ctx, a, o.secret)
	switch {
	case err != nil:
		return err
	case existing != nil:
		r.Secret, r.Passphrase = existing.document, passphrase
		r.Existing, _ = existing.store.(secrets.Keeper)
		return nil
	case passphrase != nil, o.newSecret, parsed.Image.Encryption == nil:
		r.Secret, r.Passphrase = fresh, passphrase
		return nil
	}
	ref := parsed.Image.Encryption.Secrets[0]
	f, err := secretOf(ctx, a, ref, "")
	switch {
	case err == nil:
		r.Secret = f.document
		r.Existing, _ = f.store.(secrets.Keeper)
		if bound := f.document.Volume(); bound != "" && disk.at.domain != "" && !o.inPlace {
			// The hook would not give it to the new volume at the next start.
			r.Secret, r.Existing = fresh, nil
			return a.note("the secret %s of %s is bound to %s by its usage: the new volume gets a new secret", secretName(f.document), disk.target, bound)
		}
	case errors.Is(err, secrets.ErrNotFound): // of a store that cannot list
		r.Secret = secrets.Document{UUID: ref.UUID, Usage: ref.Usage}
	default:
		return err
	}
	r.Passphrase, err = a.laterStores().Lookup(ctx, ref)
	if err != nil {
		return fmt.Errorf("%w: --with-new-secret gives the new volume another passphrase", err)
	}
	return nil
}

// reencryptDisk begins a re-encryption and, unless --no-wait is given, waits until the disk uses the new volume.
func reencryptDisk(ctx context.Context, a *app, o reencryptOptions, p *reencrypt.Prepared) (reencrypt.Entry, *hotplug.Switched, error) {
	s, err := a.setting(p.Entry)
	if err != nil {
		return p.Entry, nil, err
	}
	if err := sayCost(a, p); err != nil {
		return p.Entry, nil, err
	}
	removeDirs, err := a.makeVolumeDirs(p.Entry.Target.Payload, p.Entry.Target.Header)
	if err != nil {
		return p.Entry, nil, err
	}
	e, err := begin(ctx, a, s, p)
	if err != nil {
		removeDirs()
		return e, nil, err
	}
	if o.noWait {
		return e, nil, nil
	}
	return drive(ctx, a, e, false)
}

// begin is Start within the time limit of a command.
func begin(ctx context.Context, a *app, s reencrypt.Setting, p *reencrypt.Prepared) (reencrypt.Entry, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	defer a.progress.end()
	return s.Start(ctx, p)
}

// sayCost says what is about to begin.
func sayCost(a *app, p *reencrypt.Prepared) error {
	if a.flags.output == "json" {
		return nil
	}
	lines := costLines(p)
	for _, line := range append(lines[:1], warningLines(p)...) {
		if err := a.note("%s", line); err != nil {
			return err
		}
	}
	return nil
}

// costLines describe what a re-encryption takes, the first one in short.
func costLines(p *reencrypt.Prepared) []string {
	c := p.Cost
	text := fmt.Sprintf("%s: copying %s of %s to %s, which takes %s", subject(p.Entry), size(c.Copied), size(c.Size), p.Entry.Target.Payload, size(c.Allocation+c.Metadata))
	if c.Time > 0 {
		text += fmt.Sprintf(", at least %s", c.Time)
	}
	return []string{text}
}

// warningLines are what the user has to know before.
func warningLines(p *reencrypt.Prepared) (out []string) {
	out = append(out, p.Warnings...)
	if p.SameSecret {
		out = append(out, "the new data key is protected by the same passphrase as the old one: if that may be known to others, use --with-new-secret")
	}
	for _, place := range p.Cost.MayOutgrow() {
		out = append(out, fmt.Sprintf("%s has room for what is expected, and not for all that the guest may write meanwhile (%s): the copy is paused when there is none", place.Path, size(place.Most)))
	}
	for _, place := range p.Cost.Places {
		if place.InMemory {
			out = append(out, place.Path+" is in memory: the volume is lost at the next boot of this host")
		}
	}
	return out
}

// costText is the human-readable form of a dry run.
func costText(p *reencrypt.Prepared) string {
	c, e := p.Cost, p.Entry
	what := subject(e)
	if e.VM.Name != "" {
		what += " of " + e.VM.Name
	}
	thin := "thick: it stores all of the disk"
	if c.Thin {
		thin = "thin: it stores what the old one does; fstrim in the guest before makes that less, if the disk has discard='unmap'"
	}
	copied := size(c.Copied)
	if !c.Exact {
		copied = "at most " + copied
	}
	took := "not known"
	switch {
	case c.Time > 0 && c.BySpeed:
		took = fmt.Sprintf("at least %s, by --speed", c.Time)
	case c.Time > 0:
		took = fmt.Sprintf("at least %s", c.Time)
	}
	opener := "a new secret, with a random passphrase"
	switch {
	case p.Entry.Target.UUID == "":
		opener = "none"
	case p.SameSecret:
		opener = "that of the old volume"
	}
	rows := [][]string{
		{"would re-encrypt", fmt.Sprintf("%s, %s (%d bytes)", what, size(c.Size), c.Size)},
		{"old volume", volumeText(e.Source)},
		{"new volume", volumeText(e.Target)},
		{"secret", opener},
		{"copies", copied},
		{"takes", fmt.Sprintf("%s, at most %s if the guest writes everywhere", size(c.Allocation+c.Metadata), size(c.Most))},
		{"is", thin},
		{"time", took},
	}
	for _, place := range c.Places {
		rows = append(rows, []string{"room", roomText(place)})
	}
	for _, w := range warningLines(p) {
		rows = append(rows, []string{"note", w})
	}
	return table(rows)
}

func volumeText(v reencrypt.Volume) string {
	text := fmt.Sprintf("%s (%s)", v.Payload, v.Layout())
	if v.Header != "" {
		text += ", its header " + v.Header
	}
	return text
}

// roomText describes the room at a place.
func roomText(p reencrypt.Place) string {
	text := fmt.Sprintf("%s: %s needed", p.Path, size(p.Need))
	for _, l := range p.Limits {
		text += fmt.Sprintf(", %s free (%s)", size(l.Free), l.Kind)
	}
	if len(p.Unknown) > 0 {
		text += "; not known: " + strings.Join(p.Unknown, ", ")
	}
	return text
}

// showReencrypted prints the result of a re-encryption.
func showReencrypted(ctx context.Context, a *app, o reencryptOptions, e reencrypt.Entry, p *reencrypt.Prepared, switched *hotplug.Switched) error {
	out := reencryptionToJSON(e, &p.Cost, switched, false)
	if o.noWait {
		if a.flags.output != "json" {
			if err := a.note("QEMU copies %s: 'luksplug volume jobs %s --wait' waits for it and switches to the new volume", e.Disk, shortID(e)); err != nil {
				return err
			}
		}
		return a.show("", out)
	}
	return showSwitched(ctx, a, e, out, o.discardOld)
}

// showSwitched prints the result of a disk that uses its new volume, and destroys the old one if that is wanted.
func showSwitched(ctx context.Context, a *app, e reencrypt.Entry, out reencryptionJSON, discard bool) error {
	what := subject(e) + " uses "
	if e.Disk == "" {
		what = "the new volume is "
	}
	text := fmt.Sprintf("%s%s; the old volume is %s, and 'luksplug volume jobs %s --discard-old' destroys it", what, e.Target.Payload, e.Source.Payload, shortID(e))
	var failed error
	if discard {
		if failed = discardOld(ctx, a, e); failed == nil {
			out.Discarded = true
			text = fmt.Sprintf("%s%s; the old volume is destroyed", what, e.Target.Payload)
		}
	}
	if a.flags.output != "json" {
		if err := a.note("%s", text); err != nil {
			return errors.Join(failed, err)
		}
	}
	return errors.Join(failed, a.show(e.Target.XML, out))
}

// discardOld destroys the old volume of an entry.
func discardOld(ctx context.Context, a *app, e reencrypt.Entry) error {
	s, err := a.setting(e)
	if err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return s.DiscardOld(ctx, e)
}

// reencryptionJSON is a re-encryption in JSON. Members are only added.
type reencryptionJSON struct {
	ID        string           `json:"id"`
	VM        string           `json:"vm"`
	VMUUID    string           `json:"vm_uuid,omitempty"`
	Target    string           `json:"target"`
	Phase     reencrypt.Phase  `json:"phase"`
	Begin     string           `json:"begin"` // RFC 3339, UTC
	Old       storedVolumeJSON `json:"old"`
	New       storedVolumeJSON `json:"new"`
	Speed     int64            `json:"speed,omitempty"`
	Cost      *costJSON        `json:"cost,omitempty"`
	DryRun    bool             `json:"dry_run,omitempty"`
	Discarded bool             `json:"old_discarded"`
	SwitchMS  float64          `json:"switch_milliseconds,omitempty"`
	DiskXML   string           `json:"disk_xml,omitempty"` // once the disk uses the new volume
	// Of volume jobs: what QEMU says.
	State string `json:"state,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
	Error string `json:"error,omitempty"`
}

// storedVolumeJSON is the old or the new volume of a re-encryption in JSON.
type storedVolumeJSON struct {
	Path     string `json:"path"`
	Header   string `json:"header,omitempty"`
	Layout   string `json:"layout"`
	UUID     string `json:"uuid,omitempty"`
	Secret   string `json:"secret,omitempty"`
	KeyStore string `json:"keystore,omitempty"`
}

func storedVolumeToJSON(v reencrypt.Volume) storedVolumeJSON {
	out := storedVolumeJSON{Path: v.Payload, Header: v.Header, Layout: string(v.Layout()), UUID: v.UUID, KeyStore: v.KeyStore}
	switch {
	case v.Secret.UUID != uuid.Nil:
		out.Secret = v.Secret.UUID.String()
	case v.Secret.Usage != "":
		out.Secret = string(v.Secret.Type.UsageType()) + ":" + v.Secret.Usage
	}
	return out
}

// costJSON is what a re-encryption takes in JSON: bytes and seconds.
type costJSON struct {
	Size       int64       `json:"size"`
	Data       int64       `json:"data"`
	Exact      bool        `json:"exact"`
	Thin       bool        `json:"thin"`
	Copied     int64       `json:"copied"`
	Allocation int64       `json:"allocation"`
	Metadata   int64       `json:"metadata"`
	Most       int64       `json:"most"`
	Seconds    float64     `json:"seconds,omitempty"`
	BySpeed    bool        `json:"by_speed,omitempty"`
	Places     []placeJSON `json:"places"`
}

type placeJSON struct {
	Path    string      `json:"path"`
	Need    int64       `json:"need"`
	Most    int64       `json:"most"`
	Limits  []limitJSON `json:"limits"`
	Unknown []string    `json:"unknown"`
	Memory  bool        `json:"in_memory,omitempty"`
}

type limitJSON struct {
	Kind string `json:"kind"`
	Free int64  `json:"free"`
}

func costToJSON(c *reencrypt.Cost) *costJSON {
	out := &costJSON{Size: c.Size, Data: c.Data, Exact: c.Exact, Thin: c.Thin, Copied: c.Copied, Allocation: c.Allocation, Metadata: c.Metadata, Most: c.Most,
		Seconds: c.Time.Seconds(), BySpeed: c.BySpeed, Places: []placeJSON{}}
	for _, p := range c.Places {
		place := placeJSON{p.Path, p.Need, p.Most, []limitJSON{}, notNil(p.Unknown), p.InMemory}
		for _, l := range p.Limits {
			place.Limits = append(place.Limits, limitJSON{string(l.Kind), l.Free})
		}
		out.Places = append(out.Places, place)
	}
	return out
}

func reencryptionToJSON(e reencrypt.Entry, cost *reencrypt.Cost, switched *hotplug.Switched, dry bool) reencryptionJSON {
	out := reencryptionJSON{ID: e.ID, VM: e.VM.Name, VMUUID: e.VM.UUID, Target: e.Disk, Phase: e.Phase, Begin: e.Begin.Format(time.RFC3339),
		Old: storedVolumeToJSON(e.Source), New: storedVolumeToJSON(e.Target), Speed: e.Speed, DryRun: dry}
	if cost != nil {
		out.Cost = costToJSON(cost)
	}
	if switched != nil {
		out.SwitchMS = milliseconds(switched.Took)
	}
	if e.Phase.Switched() {
		out.DiskXML = e.Target.XML
	}
	return out
}
