package hotplug_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/must"
)

// damagedVolume returns a volume without a magic, and a copy of its header.
func damagedVolume(t *testing.T) (payload, header string) {
	t.Helper()
	payload = must.LUKS(t, key, 8<<20)
	content := must.Get(os.ReadFile(payload))(t)
	header = filepath.Join(t.TempDir(), "backup")
	must.OK(t, os.WriteFile(header, content[:2<<20], 0o600), os.WriteFile(payload, append([]byte("damage"), content[6:]...), 0o600))
	return payload, header
}

func recoveredDisk(t *testing.T, payload, header, recovery string) *blockgraph.Disk {
	t.Helper()
	return diskOf(t, "raw", payload, "<encryption format='luks'><secret type='passphrase' usage='test'/><header recover='"+recovery+"'><source file='"+header+"'/></header></encryption>", "")
}

// TestRecoveryOfARemoteVM: nothing can be compared, so that the disk can only be read.
func TestRecoveryOfARemoteVM(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	log, logged := test.NewNullLogger()
	v, _ := vm(t, hotplug.Options{Files: hotplug.FilesRemote, Log: log})
	before := state(ctx, t, v)
	payload, header := damagedVolume(t)
	_, err := v.Attach(ctx, recoveredDisk(t, payload, header, "read-write"), store(key), hotplug.AttachOptions{})
	if !errors.Is(err, hotplug.ErrBackupUnproven) {
		t.Errorf("to be written to: %v", err)
	}
	// Also with the magic of a header, which QEMU finds.
	for _, magic := range []string{"damage", "LUKS\xba\xbe"} {
		content := must.Get(os.ReadFile(payload))(t)
		copy(content, magic)
		clear(content[208:592])
		must.OK(t, os.WriteFile(payload, content, 0o600))
		at, err := v.Attach(ctx, recoveredDisk(t, payload, header, "read-only"), store(key), hotplug.AttachOptions{})
		if err != nil || !at.ReadOnly || at.Size != 6<<20 {
			t.Fatalf("%q: %+v, %v", magic, at, err)
		}
		if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}
	warned := false
	for _, e := range logged.AllEntries() {
		warned = warned || strings.Contains(e.Message, "the VM runs on another machine, so that luksplug cannot read the image; if the guest sees no data, it is not")
	}
	if after := state(ctx, t, v); !warned || !reflect.DeepEqual(before, after) {
		t.Errorf("warned: %t\nbefore %+v\nafter  %+v", warned, before, after)
	}
}

// TestRecoveryAtAStart: a VM that was saved with a recovered disk starts with it, also if the
// header was restored meanwhile, and not with another volume.
func TestRecoveryAtAStart(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s, _ := starting(t)
	payload, header := damagedVolume(t)
	check := func(d *blockgraph.Disk) error {
		return s.Check(ctx, coldstart.Disk{Disk: d, Method: blockgraph.MethodEphemeralHeader}, coldstart.ArrivalRestore, store(key))
	}
	disk := recoveredDisk(t, payload, header, "read-write")
	if err := check(disk); err != nil {
		t.Errorf("damaged: %v", err)
	}
	content := must.Get(os.ReadFile(payload))(t)
	must.OK(t, os.WriteFile(payload, bytes.Replace(content, []byte("damage"), []byte("LUKS\xba\xbe"), 1), 0o600))
	if err := check(disk); err != nil {
		t.Errorf("restored: %v", err)
	}
	other := must.LUKS(t, key, 8<<20)
	must.OK(t, os.WriteFile(payload, must.Get(os.ReadFile(other))(t), 0o600))
	if err := check(disk); !errors.Is(err, hotplug.ErrWrongBackup) {
		t.Errorf("another volume: %v", err)
	}
}
