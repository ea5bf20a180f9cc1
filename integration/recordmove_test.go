package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// copyInside is the environment variable that makes this program copy a disk of a domain, inside of the namespaces of the domain's
// libvirtd: its files in memory and its key for records are those of the hook.
const copyInside = "LUKSPLUG_TEST_COPY"

// insideCopy is a copy of a disk of luksplug's to another volume.
type insideCopy struct {
	URI, Domain, Target string
	To                  string // the document of the new volume
	PassphraseFile      string
	Fails               bool // the switch fails once the records are moved
}

// errSwitch is why a switch fails.
var errSwitch = errors.New("the test ends the switch")

// run copies and switches.
func (c insideCopy) run(ctx context.Context) error {
	d, err := libvirtvm.Open(ctx, c.URI, c.Domain, libvirtvm.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	vm, err := d.VM(ctx)
	if err != nil {
		return err
	}
	at, err := attachedAs(ctx, vm, c.Target)
	if err != nil {
		return err
	}
	recorded, err := d.Recorded(ctx, c.Target, at)
	if err != nil {
		return err
	}
	move, err := d.MoveRecords(ctx, at, recorded.XML, []byte(c.To))
	if err != nil {
		return err
	}
	disk, err := diskxml.ParseDisk([]byte(c.To))
	if err != nil {
		return err
	}
	if err := vm.StartCopy(ctx, c.Target, disk, passphraseFile(c.PassphraseFile), hotplug.CopyOptions{Kept: move.Kept()}); err != nil {
		return err
	}
	engine := reencrypt.InVM{Target: c.Target, With: func(ctx context.Context, f func(context.Context, *hotplug.VM) error) error { return f(ctx, vm) }}
	if err := (reencrypt.Setting{Engine: engine}).Wait(ctx, reencrypt.Waiting{Poll: 50 * time.Millisecond}); err != nil {
		return err
	}
	s := hotplug.Switch{Before: move.Move, Undo: move.MoveBack}
	if !c.Fails {
		_, err = vm.SwitchCopy(ctx, c.Target, s)
		return err
	}
	s.Before = func(ctx context.Context) error { return errors.Join(move.Move(ctx), errSwitch) }
	if _, err := vm.SwitchCopy(ctx, c.Target, s); !errors.Is(err, errSwitch) {
		return fmt.Errorf("the switch ends with %w", err)
	}
	return vm.CancelCopy(ctx, c.Target)
}

// attachedAs returns the disk with a target.
func attachedAs(ctx context.Context, vm *hotplug.VM, target string) (*hotplug.AttachedDisk, error) {
	disks, err := vm.List(ctx)
	for _, d := range disks {
		if d.Target == target {
			return d, nil
		}
	}
	return nil, errors.Join(err, errors.New("it is not attached"))
}

// passphraseFile is a store with one passphrase, in a file.
type passphraseFile string

func (p passphraseFile) String() string { return string(p) }

func (p passphraseFile) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	value, err := os.ReadFile(string(p))
	return secrets.New(value), err
}

// runCopyInside runs a copy, and returns the exit status of the program.
func runCopyInside(text string) int {
	var c insideCopy
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// copyTo copies a disk of a domain to another volume, and has it use that one unless the switch fails.
func (h *hookHost) copyTo(ctx context.Context, t *testing.T, d *peer.Domain, target string, to *peer.Volume, fails bool) {
	t.Helper()
	h.learn(t, to)
	c := insideCopy{URI: h.URI, Domain: d.Name, Target: target, To: serialXML(t, to.DiskXML(target, "virtio"), "serial-"+target), PassphraseFile: to.PassphraseFile, Fails: fails}
	cmd := h.Inside(ctx, must.Get(os.Executable())(t))
	cmd.Env = append(os.Environ(), copyInside+"="+string(must.Get(json.Marshal(c))(t)))
	run(ctx, t, cmd).want(t, 0)
}

// wantOn checks that a domain has a disk on a volume, in both descriptions, and in list.
func (h *hookHost) wantOn(ctx context.Context, t *testing.T, d *peer.Domain, target string, v, not *peer.Volume) {
	t.Helper()
	for scope, text := range map[string]string{"live": virsh(ctx, t, h.Libvirt, "dumpxml", d.Name), "inactive": virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", d.Name)} {
		if scope == "live" { // it has the arguments that QEMU was started with; the hook makes them anew
			text, _, _ = strings.Cut(text, "<qemu:commandline>")
		}
		if !strings.Contains(text, v.Payload) || strings.Contains(text, not.Payload) || strings.Contains(text, not.SecretUUID) {
			t.Errorf("%s: %s", scope, text)
		}
	}
	list := h.tool(ctx, t, d, "--output", "json", "list").want(t, 0)
	if got, want := fmt.Sprint(disksIn[recordedDisk](t, list)), fmt.Sprint([]recordedDisk{{target, "attached", "", []string{"live", "persistent"}}}); got != want {
		t.Errorf("list shows %s, want %s", got, want)
	}
	if disks := disksIn[listEntry](t, list); len(disks) != 1 || disks[0].Payload != v.Payload || disks[0].Header != v.Header {
		t.Errorf("list shows %+v", disks)
	}
	h.tool(ctx, t, d, "repair").want(t, 0).wantStdout(t, "nothing")
}

// wantLines checks that a text has not changed.
func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRecordFollowsACopy: the records of a disk that belongs to its domain move to the volume that it is copied to, and the domain is
// saved, restored and started with that one. A switch that fails leaves both descriptions as they were.
func TestRecordFollowsACopy(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	old, next := peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.DetachedRaw)
	disk := plugged{volume: old, target: "vdb"}
	d := h.define(ctx, t, disk)
	h.start(ctx, t, d, disk)
	h.wantOn(ctx, t, d, "vdb", old, next)
	device := guestDisk(ctx, t, d, "serial-vdb")
	pattern := []byte("before the copy. ")
	must.OK(t, d.Guest().WritePattern(ctx, device, 3, 1, pattern))
	texts := func() (out []string) { // libvirt lays out metadata anew
		for _, flags := range [][]string{{"dumpxml", d.Name}, {"dumpxml", "--inactive", d.Name}} {
			for line := range strings.Lines(virsh(ctx, t, h.Libvirt, flags...)) {
				out = append(out, strings.TrimSpace(line))
			}
		}
		return out
	}
	notRecord := func(all []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(line string) bool { return strings.Contains(line, "luksplug:") })
	}
	before := texts()
	h.copyTo(ctx, t, d, "vdb", next, true)
	wantLines(t, texts(), before)
	h.wantOn(ctx, t, d, "vdb", old, next)

	h.copyTo(ctx, t, d, "vdb", next, false)
	h.wantOn(ctx, t, d, "vdb", next, old)
	wantLines(t, notRecord(texts()), notRecord(before))
	must.OK(t, os.Rename(old.Payload, old.Payload+".old")) // nothing finds it
	wantHash(ctx, t, d, device, 3, pattern)
	later := []byte("after the switch. ")
	must.OK(t, d.Guest().WritePattern(ctx, device, 5, 1, later))

	virsh(ctx, t, h.Libvirt, "managedsave", d.Name, "--paused")
	h.wantClean(ctx, t)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	must.OK(t, d.Reconnect(ctx))
	virsh(ctx, t, h.Libvirt, "resume", d.Name)
	wantHash(ctx, t, d, device, 5, later)
	h.wantOn(ctx, t, d, "vdb", next, old)

	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
	h.start(ctx, t, d, disk)
	device = guestDisk(ctx, t, d, "serial-vdb")
	wantHash(ctx, t, d, device, 3, pattern)
	wantHash(ctx, t, d, device, 5, later)
	h.tool(ctx, t, d, "--timeout", "1m", "detach", "--persistent", "vdb").want(t, 0)
	wantNoRecord(ctx, t, h.Libvirt, d, "--live", "--config")
}

// TestMigrateAfterACopy: a disk among QEMU's arguments that was copied twice moves to another host with its domain, and back. The
// first copy leaves it with the nodes of the other instance, the second one with the usual ones.
func TestMigrateAfterACopy(t *testing.T) {
	peer.Long(t, "two hosts and a guest; TestRecordFollowsACopy restores a domain")
	t.Parallel()
	ctx := bounded(t)
	h := &hosts{from: newHookHost(t, ""), to: newHookHost(t, "")}
	h.from.shareKey(t, h.to)
	volumes := []*peer.Volume{peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.DetachedQcow2), peer.NewVolume(t, peer.Qcow2LUKS)}
	for _, v := range volumes {
		h.from.learn(t, v)
		h.to.learn(t, v)
	}
	first := plugged{volume: volumes[0], target: "vdb"}
	h.domain = h.from.define(ctx, t, first)
	inside(ctx, t, h.from.Libvirt, "hook", "enable", h.domain.Name, "--cold-plug", "--yes").want(t, 0)
	h.from.start(ctx, t, h.domain, first)
	device := guestDisk(ctx, t, h.domain, "serial-vdb")
	h.devices = []string{device}
	log := startLog(ctx, t, h.domain.Guest(), device)
	for i, v := range volumes[1:] {
		h.from.copyTo(ctx, t, h.domain, "vdb", v, false)
		h.from.wantOn(ctx, t, h.domain, "vdb", v, volumes[i])
		if v.Kind == peer.Qcow2LUKS { // QEMU opens it again when a migration fails late
			h.check(ctx, t, 0, append(h.shell(ctx), "--prepare")...)
		}
		must.Get(h.to.Receive(h.domain))(t)
		must.OK(t, h.migrate(ctx, t, "--persistent", "--undefinesource"))
		h.from.wantClean(ctx, t)
		h.moved(ctx, t)
		log.wantMore(ctx, t, h.domain.Guest())
		h.from.tool(ctx, t, h.domain, "repair").want(t, 0)
		h.from.wantOn(ctx, t, h.domain, "vdb", v, volumes[i])
	}
	h.disks = []plugged{{volume: volumes[2], target: "vdb"}}
	h.end(ctx, t, log)
}
