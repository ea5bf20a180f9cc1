package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/secrets/luks"
)

// unlocker unlocks a LUKS1 header by three methods.
type unlocker struct {
	volume     string
	passphrase string // a file
	qemu       *peer.QEMU
}

// measureUnlock compares the unlocking of a header by package luks, by cryptsetup and by QEMU. The VM was
// never started, so that QEMU is otherwise idle.
func measureUnlock(ctx context.Context, dir string, n size) (rows []row, err error) {
	dir = filepath.Join(dir, "unlock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	u := &unlocker{volume: filepath.Join(dir, "volume.img"), passphrase: filepath.Join(dir, "passphrase")}
	if err := errors.Join(makeImage(u.volume), os.WriteFile(u.passphrase, []byte("passphrase"), 0o600)); err != nil {
		return nil, err
	}
	if err := cryptsetup(ctx, "luksFormat", "--batch-mode", "--type", "luks1", "--iter-time", strconv.Itoa(n.iterTime), "--key-file", u.passphrase, u.volume); err != nil {
		return nil, err
	}
	if u.qemu, err = peer.Run(ctx, dir, peer.Options{Paused: true}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.qemu.Close()) }()
	if _, err := u.qemu.Query(ctx, "object-add", map[string]any{"qom-type": "secret", "id": "s", "file": u.passphrase}); err != nil {
		return nil, err
	}
	const what = "unlock a LUKS1 header with default settings"
	rows = []row{{what: what, reference: "blockdev-add of QEMU", wanted: 1}, {what: what, reference: "cryptsetup open --test-passphrase"}}
	if rows[0].pairs, err = compare(ctx, n.unlock, u.byQEMU, u.byLibrary, u.clean); err != nil {
		return nil, err
	}
	rows[1].pairs, err = compare(ctx, n.unlock, u.byCryptsetup, u.byLibrary, u.clean)
	return rows, err
}

// byLibrary also reads the header, as the others do.
func (u *unlocker) byLibrary(ctx context.Context) error {
	f, err := os.Open(u.volume)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	h, err := luks.ReadHeader(f)
	if err != nil {
		return err
	}
	passphrase, err := os.ReadFile(u.passphrase)
	if err != nil {
		return err
	}
	key, err := h.Unlock(ctx, passphrase)
	if err != nil {
		return err
	}
	key.Wipe()
	return nil
}

func (u *unlocker) byCryptsetup(ctx context.Context) error {
	return cryptsetup(ctx, "open", "--test-passphrase", "--key-file", u.passphrase, u.volume)
}

const unlockedNode = "unlocked"

func (u *unlocker) byQEMU(ctx context.Context) error {
	_, err := u.qemu.Query(ctx, "blockdev-add", map[string]any{"driver": "luks", "node-name": unlockedNode, "key-secret": "s",
		"file": map[string]any{"driver": "file", "filename": u.volume}})
	return err
}

// clean closes what QEMU has opened, if anything.
func (u *unlocker) clean(ctx context.Context) error {
	_, err := u.qemu.Query(ctx, "blockdev-del", map[string]any{"node-name": unlockedNode})
	var refused *peer.CommandError
	if errors.As(err, &refused) { // there is none
		return nil
	}
	return err
}

func cryptsetup(ctx context.Context, args ...string) error {
	_, err := peer.Output(ctx, "cryptsetup", args...)
	return err
}
