package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// copied is the size of the disk of measureReencrypt.
const copied = 256 << 20

// reencryption is a VM with a disk that is copied, by luksplug and by plain commands.
type reencryption struct {
	vm      *peer.QEMU
	setting reencrypt.Setting
	disk    []byte
	other   *volume.Volume // made beforehand for the plain commands
	key     string         // the file with its passphrase
	entry   reencrypt.Entry
	engine  reencrypt.InVM
}

// measureReencrypt compares a re-encryption until both volumes are in step with a blockdev-mirror to a LUKS node that was opened by its
// passphrase, all on tmpfs.
func measureReencrypt(ctx context.Context, _ string, n size) (_ []row, err error) {
	base, err := os.MkdirTemp(memoryDir, "luksplug-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	r, err := startReencryption(ctx, base)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.vm.Close()) }()
	out := row{what: "re-encrypt 256 MiB until in step, with the making of the volume", reference: "`blockdev-mirror` to a LUKS node that is open", wanted: 1 / 0.95}
	out.pairs, err = compare(ctx, n.unlock, r.byHand, r.byUs, r.clean)
	return []row{out}, err
}

func startReencryption(ctx context.Context, base string) (*reencryption, error) {
	vm, err := peer.Run(ctx, base, peer.Options{Paused: true, SCSI: true})
	if err != nil {
		return nil, err
	}
	r := &reencryption{vm: vm}
	if err := r.prepare(ctx, base); err != nil {
		return nil, errors.Join(err, vm.Close())
	}
	return r, nil
}

// prepare makes both volumes, and attaches the one.
func (r *reencryption) prepare(ctx context.Context, base string) error {
	keys := filepath.Join(base, "keys")
	if err := os.Mkdir(keys, 0o700); err != nil {
		return err
	}
	store := dir.New(keys)
	define := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return store, store.Define(ctx, d)
	}
	source, err := volume.Create(ctx, volume.Request{Path: filepath.Join(base, "disk.img"), Size: copied, Preallocation: volume.PreallocationFull}, define)
	if err != nil {
		return err
	}
	if r.other, err = volume.Create(ctx, volume.Request{Path: filepath.Join(base, "other.img"), Size: copied}, define); err != nil {
		return err
	}
	r.key, r.disk = filepath.Join(keys, r.other.Secret.UUID.String()), source.DiskXML("sdb", "")
	disk, err := diskxml.ParseDisk(r.disk)
	if err != nil {
		return err
	}
	r.engine = reencrypt.InVM{Target: "sdb", With: func(ctx context.Context, f func(context.Context, *hotplug.VM) error) error {
		vm, err := hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, r.vm.Socket) }, hotplug.Options{RunDir: filepath.Join(base, "run"), LockDir: filepath.Join(base, "locks")})
		if err != nil {
			return err
		}
		defer func() { _ = vm.Close() }() // nothing is lost
		return f(ctx, vm)
	}}
	r.setting = reencrypt.Setting{Journal: reencrypt.Journal{Dir: filepath.Join(base, "journal")}, Engine: r.engine, Store: store, Keys: define,
		Forget: func(ctx context.Context, ref secrets.Reference, _ string) error { return store.Remove(ctx, ref) }}
	return r.engine.With(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		_, err := vm.Attach(ctx, disk, store, hotplug.AttachOptions{})
		return err
	})
}

// byUs re-encrypts until the volumes are in step.
func (r *reencryption) byUs(ctx context.Context) error {
	p, err := reencrypt.Prepare(ctx, reencrypt.Request{Disk: r.disk, Size: copied, VM: reencrypt.VM{Name: "bench"}})
	if err != nil {
		return err
	}
	if r.entry, err = r.setting.Start(ctx, p); err != nil {
		return err
	}
	return r.setting.Wait(ctx, reencrypt.Waiting{Poll: 20 * time.Millisecond})
}

// byHand opens the other volume and mirrors to it.
func (r *reencryption) byHand(ctx context.Context) error {
	for _, c := range []struct {
		name string
		args map[string]any
	}{
		{"object-add", map[string]any{"qom-type": "secret", "id": "s", "file": r.key}},
		{"blockdev-add", map[string]any{"driver": "luks", "node-name": "other", "key-secret": "s", "file": map[string]any{"driver": "file", "filename": r.other.Path}}},
		{"blockdev-mirror", map[string]any{"job-id": "byhand", "device": "luksplug-sdb-luks", "target": "other", "sync": "full"}},
	} {
		if _, err := r.vm.Query(ctx, c.name, c.args); err != nil {
			return err
		}
	}
	for {
		text, err := r.vm.Query(ctx, "query-block-jobs", nil)
		if err != nil {
			return err
		}
		var jobs []struct{ Ready bool }
		if err := json.Unmarshal(text, &jobs); err != nil || len(jobs) != 1 {
			return fmt.Errorf("the job is gone: %s (%w)", text, err)
		}
		if jobs[0].Ready {
			return nil
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// clean ends what a run has begun.
func (r *reencryption) clean(ctx context.Context) error {
	if r.entry.ID != "" {
		e := r.entry
		r.entry = reencrypt.Entry{}
		return r.setting.Cancel(ctx, e)
	}
	if _, err := r.vm.Query(ctx, "job-cancel", map[string]any{"id": "byhand"}); err != nil {
		return nil //nolint:nilerr // before the first run there is none
	}
	for {
		if _, err := r.vm.Query(ctx, "blockdev-del", map[string]any{"node-name": "other"}); err == nil {
			break
		}
		if wait(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if _, err := r.vm.Query(ctx, "object-del", map[string]any{"id": "s"}); err != nil {
		return err
	}
	// The target is sparse for each run.
	return errors.Join(os.Truncate(r.other.Path, 2<<20), os.Truncate(r.other.Path, 2<<20+copied))
}
