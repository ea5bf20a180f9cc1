package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// memoryDir is a directory on tmpfs, where syncing takes no time.
const memoryDir = "/dev/shm"

// measureVolumes compares the making of volumes with qemu-img, and the backup of headers with copying and cryptsetup.
func measureVolumes(ctx context.Context, base string, n size) (rows []row, err error) {
	base = filepath.Join(base, "volumes")
	if err := os.Mkdir(base, 0o700); err != nil {
		return nil, err
	}
	tool, err := buildProgram(ctx, base, "cmd/luksplug")
	if err != nil {
		return nil, err
	}
	made, err := measureCreate(ctx, base, tool, n)
	if err != nil {
		return nil, err
	}
	memory, err := os.MkdirTemp(memoryDir, "luksplug-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(memory)) }()
	rows = append(rows, made)
	for _, place := range []struct{ dir, name string }{{base, "on disk"}, {memory, "on tmpfs"}} {
		more, err := measureBackups(ctx, place.dir, place.name, n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more)
	}
	one, err := measureBackup(ctx, base, tool, n)
	return append(rows, one), err
}

// creator makes and opens a volume by two programs.
type creator struct {
	tool, dir, image, keys, passphrase string
}

// measureCreate compares the first use of a volume with a passphrase that was made.
func measureCreate(ctx context.Context, base, tool string, n size) (row, error) {
	c := creator{tool: tool, dir: filepath.Join(base, "create")}
	c.image, c.keys, c.passphrase = filepath.Join(c.dir, "image"), filepath.Join(c.dir, "keys"), filepath.Join(c.dir, "passphrase")
	r := row{what: "`volume create`, 10 GiB, and its first open", reference: "`qemu-img create -f luks`, and its open", wanted: 0.05}
	err := errors.Join(os.Mkdir(c.dir, 0o700), c.clean(ctx))
	if err == nil {
		err = os.WriteFile(c.passphrase, []byte("passphrase"), 0o600)
	}
	if err == nil {
		r.pairs, err = compare(ctx, n.unlock, c.byQEMU, c.byUs, c.clean)
	}
	return r, err
}

func (c creator) byQEMU(ctx context.Context) error {
	if _, err := peer.Output(ctx, "qemu-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,file="+c.passphrase, "-o", "key-secret=s", c.image, "10G"); err != nil {
		return err
	}
	return c.open(ctx, c.passphrase)
}

func (c creator) byUs(ctx context.Context) error {
	out, err := peer.Output(ctx, c.tool, "--keystore", "dir:"+c.keys, "--output", "json", "volume", "create", "bench", "--size", "10G", "--path", c.image)
	if err != nil {
		return err
	}
	var made struct{ Secret string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return err
	}
	return c.open(ctx, filepath.Join(c.keys, made.Secret))
}

// open has QEMU open the volume and read from it.
func (c creator) open(ctx context.Context, key string) error {
	_, err := peer.Output(ctx, "qemu-io", "--object", "secret,id=s,file="+key, "-c", "read 0 4k",
		fmt.Sprintf(`json:{"driver":"luks","key-secret":"s","file":{"driver":"file","filename":%q}}`, c.image))
	return err
}

// clean removes the volume and its key.
func (c creator) clean(context.Context) error {
	if err := os.Remove(c.image); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(os.RemoveAll(c.keys), os.Mkdir(c.keys, 0o700))
}

// backups are volumes whose headers are backed up.
type backups struct {
	images []string
	to     string // the directory of the backups
}

// makeVolumes makes n small volumes in a new directory.
func makeVolumes(ctx context.Context, at string, n int) (*backups, error) {
	b := &backups{to: filepath.Join(at, "backups")}
	keys := filepath.Join(at, "keys")
	for _, d := range []string{at, b.to, keys} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	store := dir.New(keys)
	define := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return store, store.Define(ctx, d)
	}
	for i := range n {
		path := filepath.Join(at, fmt.Sprint("image", i))
		if _, err := volume.Create(ctx, volume.Request{Path: path, Size: 1 << 20}, define); err != nil {
			return nil, err
		}
		b.images = append(b.images, path)
	}
	return b, nil
}

// measureBackups compares the backup of many headers, in this process, with copying as many bytes.
func measureBackups(ctx context.Context, at, name string, n size) (row, error) {
	r := row{what: fmt.Sprintf("back up %d headers, %s", n.disks, name), reference: "copy the same bytes to new files, synced"}
	b, err := makeVolumes(ctx, filepath.Join(at, "headers"), n.disks)
	if err == nil {
		r.pairs, err = compare(ctx, n.many, b.copied, b.backedUp, b.clean)
	}
	return r, err
}

func (b *backups) backedUp(ctx context.Context) error {
	for _, path := range b.images {
		if _, err := volume.BackupHeader(ctx, volume.HeaderBackup{Path: path, To: filepath.Join(b.to, filepath.Base(path))}); err != nil {
			return err
		}
	}
	return nil
}

// headerBytes is the length of a LUKS1 header in an image.
const headerBytes = 2 << 20

// copied copies the beginning of each image, and syncs the copy and the directory.
func (b *backups) copied(context.Context) error {
	for _, path := range b.images {
		if err := copySynced(path, filepath.Join(b.to, filepath.Base(path))); err != nil {
			return err
		}
	}
	return nil
}

func copySynced(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	content := make([]byte, headerBytes)
	if _, err := io.ReadFull(in, content); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(content)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// clean removes the backups.
func (b *backups) clean(context.Context) error {
	return errors.Join(os.RemoveAll(b.to), os.Mkdir(b.to, 0o700))
}

// measureBackup compares whole commands that back up one header.
func measureBackup(ctx context.Context, at, tool string, n size) (row, error) {
	r := row{what: "`luksplug volume header-backup`, which opens the copy", reference: "`cryptsetup luksHeaderBackup`"}
	at = filepath.Join(at, "one")
	b, err := makeVolumes(ctx, at, 1)
	if err != nil {
		return r, err
	}
	to := filepath.Join(b.to, "header")
	r.pairs, err = compare(ctx, n.process,
		func(ctx context.Context) error {
			return cryptsetup(ctx, "luksHeaderBackup", b.images[0], "--header-backup-file", to)
		},
		func(ctx context.Context) error {
			_, err := peer.Output(ctx, tool, "--keystore", "dir:"+filepath.Join(at, "keys"), "volume", "header-backup", b.images[0], to)
			return err
		}, b.clean)
	return r, err
}
