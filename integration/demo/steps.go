package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// sentence is what the guest writes repeatedly into the first block.
const sentence = "The guest wrote this in plain text. "

// block is how many bytes are written and compared, shown how many of them a reader sees.
const (
	block = 4096
	shown = 48
)

// plaintext returns the content of the block.
func plaintext() []byte {
	return bytes.Repeat([]byte(sentence), block/len(sentence)+1)[:block]
}

// attach attaches the volume.
func (d *demo) attach(ctx context.Context) error {
	d.step("Attach it to the running VM",
		"luksplug checks the files and what this QEMU can do, plans the block nodes, applies the plan, and verifies by queries that all of it exists.")
	if err := d.luksplug(ctx, "--passphrase-file", "passphrase", "-v", "attach", target+".xml"); err != nil {
		return err
	}
	guest := d.vm.Guest()
	var err error
	if d.device, err = guest.WaitDisk(ctx, serial); err != nil {
		return err
	}
	size, err := guest.SizeOf(ctx, d.device)
	if err != nil {
		return err
	}
	if size != d.volume.Size {
		return fmt.Errorf("the guest sees a disk of %d bytes, not of %d", size, d.volume.Size)
	}
	d.checked("the guest has found the disk: %s, %d MiB", d.device, size/peer.MiB)
	state, err := d.vm.State(ctx)
	if err != nil {
		return err
	}
	for _, o := range state.Objects {
		if strings.Contains(o, "(secret)") {
			return fmt.Errorf("the passphrase is still in QEMU: object %s", o)
		}
	}
	d.checked("the passphrase is gone from QEMU again: it has no secret object")
	return nil
}

// write lets the guest use the disk.
func (d *demo) write(ctx context.Context) error {
	d.step("Let the guest write and read", "The guest fills a block with a sentence, drops its cache, and reads the block from the disk.")
	guest := d.vm.Guest()
	text := base64.StdEncoding.EncodeToString([]byte(sentence))
	fill := fmt.Sprintf("s=$(echo %s | base64 -d; echo .); s=${s%%.}; i=0; while [ $i -lt %d ]; do printf %%s \"$s\"; i=$((i+1)); done | head -c %d > /tmp/block && dd if=/tmp/block of=%s bs=%d conv=fsync 2>/dev/null",
		text, block/len(sentence)+1, block, d.device, block)
	if _, err := guest.Run(ctx, fill); err != nil {
		return fmt.Errorf("the guest cannot write: %w", err)
	}
	dump := fmt.Sprintf("hexdump -C -n %d %s", shown, d.device)
	out, err := guest.Run(ctx, "echo 3 > /proc/sys/vm/drop_caches; "+dump)
	if err != nil {
		return fmt.Errorf("the guest cannot read: %w", err)
	}
	d.printf("   guest# %s\n", dump)
	d.quote(out)
	out, err = guest.Run(ctx, fmt.Sprintf("dd if=%s bs=%d count=1 2>/dev/null | base64 -w 0", d.device, block))
	if err != nil {
		return fmt.Errorf("the guest cannot read: %w", err)
	}
	read, err := base64.StdEncoding.DecodeString(strings.TrimSpace(out))
	if err != nil {
		return fmt.Errorf("the guest's answer is not base64: %w", err)
	}
	if !bytes.Equal(read, plaintext()) {
		return fmt.Errorf("the guest does not read what it wrote")
	}
	d.checked("the guest reads the %d bytes that it wrote", block)
	return nil
}

// compare reads the same block of the host's file.
func (d *demo) compare(context.Context) error {
	d.step("Read the same bytes on the host", "The same offset of the payload file, as anyone with access to the file or the storage reads it.")
	payload, err := os.ReadFile(d.volume.Payload)
	if err != nil {
		return err
	}
	d.command(fmt.Sprintf("hexdump -C -n %d payload.img", shown))
	d.quote(hex.Dump(payload[:shown]))
	for i := 0; i < block; i += 16 {
		if bytes.Equal(payload[i:i+16], plaintext()[i:i+16]) || strings.Trim(string(payload[i:i+16]), "\x00") == "" {
			return fmt.Errorf("the payload holds no ciphertext at offset %d", i)
		}
	}
	d.checked("not one of the block's %d cipher blocks is plain text or zero", block/16)
	if bytes.Contains(payload, []byte(sentence)) {
		return fmt.Errorf("the payload holds the guest's sentence in plain text")
	}
	d.checked("the sentence is nowhere in the %d MiB of the file", len(payload)/peer.MiB)
	return nil
}

// detach detaches the disk and compares the VM with its state before.
func (d *demo) detach(ctx context.Context) error {
	d.step("Detach it", "luksplug requests the disk from the guest, and removes every block node when the guest has released it.")
	if err := d.luksplug(ctx, "detach", target); err != nil {
		return err
	}
	if err := d.vm.Guest().WaitGone(ctx, d.device); err != nil {
		return err
	}
	d.checked("%s is gone from the guest", d.device)
	after, err := d.vm.State(ctx)
	if err != nil {
		return err
	}
	if diff := d.before.Diff(after); len(diff) > 0 {
		return fmt.Errorf("the VM is not as it was before: %s", strings.Join(diff, ", "))
	}
	d.checked("QEMU is as it was before the attach, by name: %d block nodes, %d objects, %d descriptor sets, %d devices, %d drives",
		len(after.Nodes), len(after.Objects), len(after.FDSets), len(after.Devices), len(after.Blocks))
	return nil
}

// readBack decrypts what the guest wrote with another program.
func (d *demo) readBack(ctx context.Context) error {
	d.step("Read it with another program", "qemu-img opens the payload on the host with the same header and passphrase: the volume is plain LUKS.")
	read, err := d.volume.ReadThrough(ctx, 0, block)
	if err != nil {
		return err
	}
	if !bytes.Equal(read, plaintext()) {
		return fmt.Errorf("qemu-img does not read what the guest wrote")
	}
	d.quote(hex.Dump(read[:shown]))
	d.checked("qemu-img reads what the guest wrote")
	return nil
}
