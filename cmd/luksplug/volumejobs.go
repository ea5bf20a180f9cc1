package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/internal/printable"
)

// jobsOptions are the flags of volume jobs.
type jobsOptions struct {
	wait, finish, cancel, discardOld bool
	speed                            string
}

func newVolumeJobs(a *app) *cobra.Command {
	var o jobsOptions
	cmd := &cobra.Command{
		Use:         "jobs [JOB]",
		Annotations: map[string]string{ownLimit: ""},
		Short:       "Show, finish and cancel re-encryptions",
		Long: `jobs shows the re-encryptions of this host that are not finished, and those whose old
volume is still there; with --qmp or --domain those of that VM. QEMU copies by itself:
that the process which has begun a copy has ended does not matter.

JOB is the id that the list shows, or its beginning; a disk's target; or the path of its old
or new image. One of these flags goes on with it, from any process:
  --wait         waits until both volumes are the same, and switches to the new one
  --finish       switches now; refused if the copy is not that far
  --cancel       ends the copy and removes the new volume: the disk stays on the old one
  --discard-old  destroys the old volume of a disk that uses the new one, and its secret
                 if the new one has another and nothing else uses it
  --speed        changes the limit of the copy; 0 is none
Without JOB there has to be one only.

Each of them first finds out how far the re-encryption is, also if the process or the VM
ended in the middle: then the marks in the headers of the volumes tell. A copy whose VM
has ended is removed, as the disk is on its old volume.`,
		Example: `  luksplug volume jobs
  luksplug volume jobs vdb --wait
  luksplug volume jobs 3f2a81f5 --speed 10M
  luksplug volume jobs 3f2a81f5 --cancel
  luksplug volume jobs /var/lib/images/vm1-vdb-r2.img --discard-old`,
		Args: optionalArgument("JOB"),
		ValidArgsFunction: completed(func(cmd *cobra.Command) []string {
			return jobNames(cmd, a)
		}, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeJobs(cmd.Context(), a, o, firstOrNone(args), cmd.Flags().Changed("speed"))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.wait, "wait", false, "wait until the volumes are the same, and switch to the new one")
	f.BoolVar(&o.finish, "finish", false, "switch to the new volume now")
	f.BoolVar(&o.cancel, "cancel", false, "end the copy, and remove the new volume")
	f.BoolVar(&o.discardOld, "discard-old", false, "destroy the old volume; with --wait and --finish, after the switch")
	f.StringVar(&o.speed, "speed", "", "copy no more than this in a second, such as 10M; 0 for no limit")
	return cmd
}

// check returns what contradicts itself in the flags.
func (o *jobsOptions) check() error {
	given := 0
	for _, flag := range []bool{o.wait, o.finish, o.cancel} {
		if flag {
			given++
		}
	}
	if given > 1 || o.cancel && o.discardOld {
		return &usageError{errors.New("--wait, --finish and --cancel contradict each other, and --cancel keeps the old volume")}
	}
	return nil
}

func runVolumeJobs(ctx context.Context, a *app, o jobsOptions, name string, setSpeed bool) error {
	if err := o.check(); err != nil {
		return err
	}
	j, err := a.journal()
	if err != nil {
		return err
	}
	all, listErr := j.List()
	if all, err = a.ofVM(ctx, all); err != nil {
		return err
	}
	acts := o.wait || o.finish || o.cancel || o.discardOld || setSpeed
	if name != "" || acts {
		e, err := chooseEntry(all, name)
		if err != nil {
			return errors.Join(err, listErr)
		}
		all = []reencrypt.Entry{e}
	}
	if !acts {
		return errors.Join(showJobs(ctx, a, all), listErr)
	}
	e := all[0]
	if setSpeed {
		if err := setJobSpeed(ctx, a, e, o.speed); err != nil {
			return err
		}
		if !o.wait && !o.finish && !o.cancel && !o.discardOld {
			return showJobs(ctx, a, all)
		}
	}
	return runJob(ctx, a, o, e)
}

// ofVM returns the entries of the VM that the flags name, all if they name none.
func (a *app) ofVM(ctx context.Context, all []reencrypt.Entry) ([]reencrypt.Entry, error) {
	if a.flags.domain == "" && a.flags.qmp == "" {
		return all, nil
	}
	at, err := a.address()
	if err != nil {
		return nil, err
	}
	err = at.with(ctx, a, a.flags.limit(), func(context.Context, virtualMachine) error { return nil })
	if hasEnded(err) && at.domain == "" {
		a.vm = "" // the VM is known by its address
	} else if err != nil {
		return nil, err
	}
	vm := at.vmOf(a.vm)
	return slices.DeleteFunc(all, func(e reencrypt.Entry) bool {
		if vm.UUID == "" {
			return e.VM.Monitor != vm.Monitor
		}
		return e.VM.UUID != vm.UUID && e.VM.Monitor != vm.Monitor
	}), nil
}

// chooseEntry returns the entry that an argument names.
func chooseEntry(all []reencrypt.Entry, name string) (reencrypt.Entry, error) {
	var found []reencrypt.Entry
	var ids []string
	for _, e := range all {
		ids = append(ids, fmt.Sprintf("%s (%s)", shortID(e), ofEntry(e)))
		if names(e, name) {
			found = append(found, e)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(all) == 0:
		return reencrypt.Entry{}, &usageError{errors.New("no re-encryption is in the journal")}
	case name == "":
		return reencrypt.Entry{}, &usageError{fmt.Errorf("give the JOB: one of %s", strings.Join(ids, ", "))}
	case len(found) == 0:
		return reencrypt.Entry{}, &usageError{fmt.Errorf("no re-encryption is %q: there is %s", name, strings.Join(ids, ", "))}
	}
	return reencrypt.Entry{}, &usageError{fmt.Errorf("%q is more than one re-encryption: give the id of one of %s", name, strings.Join(ids, ", "))}
}

// ofEntry names what an entry re-encrypts, with the VM.
func ofEntry(e reencrypt.Entry) string {
	if e.VM.Name == "" {
		return subject(e)
	}
	return subject(e) + " of " + e.VM.Name
}

// names reports whether an argument is the name of an entry; "" is that of each.
func names(e reencrypt.Entry, name string) bool {
	const shortest = 4 // characters of an id
	switch {
	case name == "", name == e.Disk, len(name) >= shortest && strings.HasPrefix(e.ID, strings.ToLower(name)):
		return true
	case !strings.Contains(name, "/"):
		return false
	}
	return samePath(name, e.Source.Payload) || samePath(name, e.Target.Payload)
}

// setJobSpeed sets the limit of a copy.
func setJobSpeed(ctx context.Context, a *app, e reencrypt.Entry, text string) error {
	speed := int64(0)
	if text != "0" {
		var err error
		if speed, err = optionalFlagSize("speed", text); err != nil {
			return err
		}
	}
	s, err := a.setting(e)
	if err != nil {
		return err
	}
	if s.Engine == nil {
		return &usageError{errors.New("no VM copies this volume: the process that does has its limit")}
	}
	return s.Engine.SetSpeed(ctx, speed)
}

// runJob goes on with an entry.
func runJob(ctx context.Context, a *app, o jobsOptions, e reencrypt.Entry) error {
	s, err := a.setting(e)
	if err != nil {
		return err
	}
	if driven := driver(ctx, a, e); driven != nil && s.Engine == nil {
		return driven // until it has ended
	}
	e, outcome, err := resume(ctx, a, s, e)
	switch {
	case err != nil:
		return fmt.Errorf("re-encryption %s of %s: %w", shortID(e), subject(e), err)
	case outcome == reencrypt.OutcomeDropped && o.cancel:
		return showEnded(a, e, "the copy of %s had ended, and what was left of it is removed: the disk is on %s", subject(e), e.Source.Payload)
	case outcome == reencrypt.OutcomeDropped:
		return fmt.Errorf("re-encryption %s of %s: the copy had ended: %w", shortID(e), subject(e), errDropped)
	case outcome == reencrypt.OutcomeDone && o.cancel:
		return &hotplug.PreflightError{Target: e.Disk, Cause: hotplug.ErrSwitched, Reason: "it uses the new volume already"}
	case outcome == reencrypt.OutcomeDone:
		return showSwitched(ctx, a, e, reencryptionToJSON(e, nil, nil, false), o.discardOld)
	case o.cancel:
		if err := cancelCopy(ctx, a, s, e); !errors.Is(err, errDropped) {
			return err
		}
		return showEnded(a, e, "the re-encryption of %s is canceled: the disk is on %s", subject(e), e.Source.Payload)
	case o.discardOld && !o.wait && !o.finish:
		return fmt.Errorf("re-encryption %s of %s: %w", shortID(e), subject(e), reencrypt.ErrNotSwitched)
	}
	var switched *hotplug.Switched
	if o.finish {
		e, switched, err = finishNow(ctx, a, s, e)
	} else {
		e, switched, err = drive(ctx, a, e, true)
	}
	if err != nil {
		return err
	}
	return showSwitched(ctx, a, e, reencryptionToJSON(e, nil, switched, false), o.discardOld)
}

// finishNow switches to the new volume. A copy that only lacks what the guest writes comes into step when its writes go to both volumes.
func finishNow(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry) (reencrypt.Entry, *hotplug.Switched, error) {
	const shortly = 10 * time.Second
	c, err := s.Engine.Copy(ctx)
	if err != nil {
		return e, nil, err
	}
	if reencrypt.NearEnd(c) {
		waiting, cancel := context.WithTimeout(ctx, shortly)
		err = s.Wait(waiting, reencrypt.Waiting{})
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return e, nil, err
		}
	}
	return finish(ctx, a, s, e)
}

// showEnded prints that an entry has ended without a new volume.
func showEnded(a *app, e reencrypt.Entry, format string, args ...any) error {
	out := reencryptionToJSON(e, nil, nil, false)
	out.State = "canceled"
	return a.show(printable.Line(fmt.Sprintf(format, args...))+"\n", out)
}

// showJobs prints entries, with what their VMs say.
func showJobs(ctx context.Context, a *app, all []reencrypt.Entry) error {
	jobs := []reencryptionJSON{}
	rows := [][]string{{"JOB", "VM", "DISK", "STATE", "PROGRESS", "AGE", "OLD", "NEW"}}
	for _, e := range all {
		j := askJob(ctx, a, e)
		jobs = append(jobs, j)
		progress := "-"
		if j.Total > 0 {
			progress = fmt.Sprintf("%s of %s", size(j.Done), size(j.Total))
		}
		rows = append(rows, []string{shortID(e), dash(e.VM.Name), dash(e.Disk), j.State, progress, ageText(time.Since(e.Begin)), e.Source.Payload, e.Target.Payload})
	}
	text := table(rows)
	if len(all) == 0 {
		text = "no re-encryption is in the journal\n"
	}
	return a.show(text, struct {
		Jobs []reencryptionJSON `json:"jobs"`
	}{jobs})
}

// askJob returns an entry with what its VM says.
func askJob(ctx context.Context, a *app, e reencrypt.Entry) reencryptionJSON {
	out := reencryptionToJSON(e, nil, nil, false)
	if e.Phase.Switched() {
		out.State = "done, the old volume is kept"
		return out
	}
	if e.VM == (reencrypt.VM{}) {
		out.State = "interrupted"
		if driven := driver(ctx, a, e); driven != nil {
			out.State = drivenState(driven)
		}
		return out
	}
	c, err := a.engine(e).Copy(ctx)
	switch {
	case hasEnded(err):
		out.State = "the VM has ended"
		if driven := driver(ctx, a, e); driven != nil {
			out.State = drivenState(driven)
		}
	case errors.Is(err, hotplug.ErrNoCopy), is[*hotplug.NotHeldError](err):
		out.State = "ended"
	case err != nil:
		out.State, out.Error = "unknown: "+oneLine(err.Error()), oneLine(err.Error())
	default:
		out.State, out.Done, out.Total, out.Error = string(c.Phase), c.Done, c.Total, errorText(c.Err)
	}
	return out
}

// driver returns the process that has the lock of an entry, nil for none.
func driver(ctx context.Context, a *app, e reencrypt.Entry) *reencrypt.DrivenError {
	j, err := a.journal()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	lock, err := j.Lock(ctx, e.ID, nil)
	if driven := (*reencrypt.DrivenError)(nil); errors.As(err, &driven) {
		return driven
	}
	if err == nil {
		lock.Release()
	}
	return nil
}

// drivenState describes a copy that a process makes itself.
func drivenState(d *reencrypt.DrivenError) string {
	return fmt.Sprintf("copied by process %d", d.Holder)
}

// jobNames returns the ids of the entries, with their disks as descriptions, for completion in a shell.
func jobNames(cmd *cobra.Command, a *app) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	j, err := a.journal()
	if err != nil {
		return nil
	}
	all, _ := j.List() // what cannot be read is not offered
	var out []string
	for _, e := range all {
		out = append(out, shortID(e)+"\t"+printable.Line(ofEntry(e)))
	}
	return out
}
