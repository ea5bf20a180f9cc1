package hotplug_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// inStep waits until a copy is in step, with all writes going to both volumes.
func inStep(ctx context.Context, t *testing.T, v *hotplug.VM, target string) *hotplug.Copy {
	t.Helper()
	converging := false
	for {
		c := must.Get(v.Copy(ctx, target))(t)
		switch {
		case c.Phase == hotplug.CopyInStep:
			return c
		case c.Phase != hotplug.CopyRunning:
			t.Fatalf("the copy is %s: %v", c.Phase, c.Err)
		case !converging:
			must.OK(t, v.ConvergeCopy(ctx, target))
			converging = true
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// guestData returns what a guest reads from a LUKS image.
func guestData(t *testing.T, disk *blockgraph.Disk) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "plain")
	must.Run(t, "", "qemu-img", "convert", "--object", "secret,id=s,file="+keyFile(t), "-U", "--image-opts",
		"driver=luks,key-secret=s,file.filename="+disk.Image.Source.Path, "-O", "raw", out)
	return string(must.Get(os.ReadFile(out))(t))
}

// TestCopy: a disk is copied to another volume and back, and looks as if it had been attached with that.
func TestCopy(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	at := must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	for i, to := range []*blockgraph.Disk{second, first} {
		var calls []string
		call := func(name string) func(context.Context) error {
			return func(context.Context) error {
				calls = append(calls, name)
				return nil
			}
		}
		must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{Opened: call("opened"), Kept: "kept"}))
		if err := v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrCopying) {
			t.Errorf("a second copy: %v", err)
		}
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: time.Second}); !errors.Is(err, hotplug.ErrCopying) {
			t.Errorf("a detach meanwhile: %v", err)
		}
		c := inStep(ctx, t, v, "sdb")
		if c.Done != 8<<20 || c.Disk.Size != 8<<20 || c.Disk.Copy.Payload != to.Image.Source.Path {
			t.Errorf("%d of %d bytes, %+v", c.Done, c.Total, c.Disk)
		}
		switched := must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{Before: call("before"), Undo: call("undo")}))(t)
		if !slices.Equal(calls, []string{"opened", "before"}) {
			t.Errorf("called were %v", calls)
		}
		if switched.Payload != to.Image.Source.Path || switched.Device != at.Device || switched.Kept != "kept" || len(switched.Old) == 0 {
			t.Errorf("switched to %+v", switched)
		}
		disks := must.Get(v.List(ctx))(t)
		if len(disks) != 1 || disks[0].Copy != nil || disks[0].Target != "sdb" || disks[0].Payload != to.Image.Source.Path || disks[0].Unlock != at.Unlock || disks[0].UUID == "" || disks[0].Size != 8<<20 {
			t.Errorf("copy %d: %+v", i, disks[0])
		}
		if again := must.Get(v.Attach(ctx, to, store(key), hotplug.AttachOptions{}))(t); !again.Already {
			t.Error("the disk was attached again")
		}
		other := []*blockgraph.Disk{first, second}[i]
		if _, err := v.Attach(ctx, other, store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrTargetTaken) {
			t.Errorf("the old volume: %v", err)
		}
		if uses := must.Get(hotplug.Uses(run))(t); len(uses) != 1 || uses[0].Target != "sdb" || uses[0].Payload != to.Image.Source.Path {
			t.Errorf("uses %+v", uses)
		}
	}
	if _, err := v.Copy(ctx, "sdb"); !errors.Is(err, hotplug.ErrNoCopy) {
		t.Errorf("a copy that has ended: %v", err)
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	wantNothingLeft(ctx, t, v, before, run)
}

// TestCopyOther: the other instance is detached and repaired like the first one.
func TestCopyOther(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{}))
	inStep(ctx, t, v, "sdb")
	must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
	if guestData(t, first) != guestData(t, second) {
		t.Error("the volumes differ")
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	wantNothingLeft(ctx, t, v, before, run)
	if at := must.Get(v.Attach(ctx, second, store(key), hotplug.AttachOptions{}))(t); at.Instance != "sdb" {
		t.Errorf("attached as %s", at.Instance)
	}
}

// TestCopyCanceled: a copy that is canceled in any phase leaves the disk, and nothing of the new volume.
func TestCopyCanceled(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	before := state(ctx, t, v)
	for name, until := range map[string]func(){
		"running": func() {}, "in step": func() { inStep(ctx, t, v, "sdb") },
	} {
		must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: 1 << 20}))
		if c := must.Get(v.Copy(ctx, "sdb"))(t); c.Phase != hotplug.CopyRunning || c.Speed != 1<<20 {
			t.Errorf("%s: %+v", name, c)
		}
		must.OK(t, v.SetCopySpeed(ctx, "sdb", 0))
		until()
		must.OK(t, v.CancelCopy(ctx, "sdb"))
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: before %+v\nafter  %+v", name, before, after)
		}
	}
	if err := v.CancelCopy(ctx, "sdb"); !errors.Is(err, hotplug.ErrNoCopy) {
		t.Errorf("no copy: %v", err)
	}
}

// TestCopyNotSwitched: a switch that fails before the device is moved is undone, and the copy goes on.
func TestCopyNotSwitched(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: 1 << 20}))
	if _, err := v.SwitchCopy(ctx, "sdb", hotplug.Switch{}); !errors.Is(err, hotplug.ErrNotInStep) {
		t.Errorf("at once: %v", err)
	}
	must.OK(t, v.SetCopySpeed(ctx, "sdb", 0))
	inStep(ctx, t, v, "sdb")
	refused, undone := errors.New("the record cannot be written"), 0
	s := hotplug.Switch{Before: func(context.Context) error { return refused }, Undo: func(context.Context) error { undone++; return nil }}
	var rolledBack *hotplug.RolledBackError
	if _, err := v.SwitchCopy(ctx, "sdb", s); !errors.Is(err, refused) || !errors.As(err, &rolledBack) || undone != 1 {
		t.Errorf("%v, undone %d times", err, undone)
	}
	if c := must.Get(v.Copy(ctx, "sdb"))(t); c.Phase != hotplug.CopyInStep || c.Disk.Payload != first.Image.Source.Path {
		t.Errorf("after that: %+v", c)
	}
	s.Undo = func(context.Context) error { return errors.New("nor removed") }
	var left *hotplug.LeftBehindError
	if _, err := v.SwitchCopy(ctx, "sdb", s); !errors.As(err, &left) || !strings.Contains(err.Error(), "nor removed") {
		t.Errorf("an undo that fails: %v", err)
	}
	must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
}

// TestCopyRepaired: what a run has left that was killed after QEMU had ended the copy is removed by Repair, and by the next copy. A
// copy that runs stays.
func TestCopyRepaired(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, dial := vm(t, hotplug.Options{})
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	client := must.Get(dial(ctx))(t)
	t.Cleanup(func() { _ = client.Close() })
	before := state(ctx, t, v)
	end := func() {
		t.Helper()
		must.Get(client.Execute(ctx, qmp.Command{Execute: "job-cancel", Arguments: qmp.Object{{Name: "id", Value: "luksplug-sdb-copy"}}}))(t)
		for must.Get(v.Copy(ctx, "sdb"))(t).Phase != hotplug.CopyEnded {
			time.Sleep(5 * time.Millisecond)
		}
	}
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: 1 << 20}))
	if removed := must.Get(v.Repair(ctx))(t); len(removed) != 0 {
		t.Errorf("repair of a copy that runs has removed %+v", removed)
	}
	end()
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: 1 << 20}))
	end()
	if removed := must.Get(v.Repair(ctx))(t); len(removed) != 1 || removed[0].Copy.Instance != "sdb.2" {
		t.Errorf("repair has removed %+v", removed)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestCopyNoted: of a run that was killed before it changed the VM only a note is left. The volume counts as used by it until the end of
// the copy is asked for.
func TestCopyNoted(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{}))(t)
	note := must.Get(filepath.Glob(filepath.Join(run, "*", "sdb.json")))(t)[0]
	text := string(must.Get(os.ReadFile(note))(t))
	other := strings.TrimSuffix(note, ".json") + ".2.json"
	for name, end := range map[string]func(context.Context, string) error{"end": v.EndCopy, "cancel": v.CancelCopy} {
		must.OK(t, os.WriteFile(other, []byte(strings.Replace(text, `"sdb"`, `"sdb.2"`, 1)), 0o600))
		if uses := must.Get(hotplug.Uses(run))(t); len(uses) != 2 {
			t.Fatalf("%s: before: %+v", name, uses)
		}
		if err := end(ctx, "sdb"); !errors.Is(err, hotplug.ErrNoCopy) {
			t.Errorf("%s: %v", name, err)
		}
		if uses := must.Get(hotplug.Uses(run))(t); len(uses) != 1 {
			t.Errorf("%s: after: %+v", name, uses)
		}
	}
}

// TestCopyRefused: what a copy would not follow is refused, and nothing is left.
func TestCopyRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	first := luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	before := state(ctx, t, v)
	larger := must.LUKS(t, key, 2<<20+9<<20)
	inSource := `<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>`
	failed := errors.New("it cannot be marked")
	for name, c := range map[string]struct {
		target  string
		to      *blockgraph.Disk
		options hotplug.CopyOptions
		want    error
	}{
		"another size":      {"sdb", parse(t, "sdb", "raw", larger, inSource), hotplug.CopyOptions{}, hotplug.ErrSize},
		"its own volume":    {"sdb", first, hotplug.CopyOptions{}, hotplug.ErrImageInUse},
		"no volume":         {"sdb", parse(t, "sdb", "raw", "/nonexistent/image", inSource), hotplug.CopyOptions{}, os.ErrNotExist},
		"it is not marked":  {"sdb", luksDisk(t, "sdb"), hotplug.CopyOptions{Opened: func(context.Context) error { return failed }}, failed},
		"encrypted, no XML": {"sdb", parse(t, "sdb", "raw", larger, ""), hotplug.CopyOptions{}, hotplug.ErrUnexpectedEncryption},
	} {
		if err := v.StartCopy(ctx, c.target, c.to, store(key), c.options); !errors.Is(err, c.want) || strings.Contains(err.Error(), "sdb.2") {
			t.Errorf("%s: %v", name, err)
		}
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: before %+v\nafter  %+v", name, before, after)
		}
	}
	for name, c := range map[string]struct {
		change func(*blockgraph.Disk)
		want   error
	}{
		"to a transient disk": {func(d *blockgraph.Disk) { d.Transient = true }, hotplug.ErrUncopyable},
		"to an empty drive":   {func(d *blockgraph.Disk) { d.Empty = true }, hotplug.ErrUncopyable},
		"to a read-only disk": {func(d *blockgraph.Disk) { d.ReadOnly = true }, hotplug.ErrReadOnlyImage},
	} {
		to := luksDisk(t, "sdb")
		c.change(to)
		if err := v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var missing *hotplug.NotHeldError
	if err := v.StartCopy(ctx, "sdc", first, store(key), hotplug.CopyOptions{}); !errors.As(err, &missing) {
		t.Errorf("no disk: %v", err)
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	readonly := *first
	readonly.ReadOnly = true
	must.Get(v.Attach(ctx, &readonly, store(key), hotplug.AttachOptions{}))(t)
	if err := v.StartCopy(ctx, "sdb", luksDisk(t, "sdb"), store(key), hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrReadOnlyImage) {
		t.Errorf("read-only: %v", err)
	}
}
