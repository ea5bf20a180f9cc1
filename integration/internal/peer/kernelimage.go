package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// unpacker is a program that unpacks one kind of compressed kernel when called as KIND -dc, and its package.
// dpkg needs the same libraries, so they are installed.
type unpacker struct{ magic, kind, inPackage string }

var unpackers = []unpacker{
	{"\x02\x21\x4c\x18", "lz4", "lz4"},
	{"\x28\xb5\x2f\xfd", "zstd", "zstd"},
	{"\xfd7zXZ", "xz", "xz-utils"},
	{"\x1f\x8b", "gzip", "gzip"},
}

// unpackKernel writes the kernel of a bzImage uncompressed, for QEMU to start by its PVH entry: decompression
// is a fifth of an emulated boot. If the kind of compression is unknown, it copies the bzImage, which QEMU
// starts as well.
//
// The fields are those of the kernel's Documentation/arch/x86/boot.rst.
func unpackKernel(ctx context.Context, work, bzImage, to string) error {
	const setupSectors, payloadOffset, payloadLength, headerEnd, sector = 0x1f1, 0x248, 0x24c, 0x250, 512
	image, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	if len(image) < headerEnd || string(image[0x202:0x206]) != "HdrS" {
		return fmt.Errorf("%s is no bzImage", bzImage)
	}
	begin := (int(image[setupSectors])+1)*sector + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := begin + int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if begin < 0 || begin > end || end > len(image) {
		return fmt.Errorf("%s says that its kernel is at %d to %d", bzImage, begin, end)
	}
	for _, u := range unpackers {
		payload := image[begin:end]
		if !bytes.HasPrefix(payload, []byte(u.magic)) {
			continue
		}
		if u.kind != "gzip" { // gzip's own format ends in the size; to the others it is appended
			payload = payload[:len(payload)-4]
		}
		return unpackPayload(ctx, work, u, payload, to)
	}
	return os.WriteFile(to, image, 0o644)
}

func unpackPayload(ctx context.Context, work string, u unpacker, payload []byte, to string) error {
	root := filepath.Join(work, u.kind)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := unpackPackages(ctx, root, root, u.inPackage); err != nil {
		return err
	}
	program, err := findFile(root, u.kind, "usr/bin", "bin") // the second in a release in which that is no link
	if err != nil {
		return err
	}
	kernel, err := os.Create(to)
	if err != nil {
		return err
	}
	var messages bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-dc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), kernel, &messages
	if err := errors.Join(cmd.Run(), kernel.Close()); err != nil {
		return fmt.Errorf("unpack the kernel by %s: %w: %s", u.kind, err, messages.String())
	}
	return nil
}
