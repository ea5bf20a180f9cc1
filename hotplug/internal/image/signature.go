package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signature is a mark of a file system, partition table, volume manager, RAID or swap
// space in an image.
type Signature struct {
	Offset int64
	Type   string // the name in libblkid: "ext4", "gpt", "LVM2_member"
}

func (s Signature) String() string { return fmt.Sprintf("%s at byte %d", s.Type, s.Offset) }

// ErrNoSignatures reports that wipefs, whose library knows the signatures, is not
// installed or cannot be used.
var ErrNoSignatures = errors.New("wipefs (util-linux 2.33 or later), which knows the signatures of file systems, cannot be used")

// Where libblkid searches: at the beginning, up to VMFS at 1 MiB, and at the end, up to
// the last two labels of ZFS.
const (
	signatureHead = 2 << 20
	signatureTail = 1 << 20
)

// signatureWait bounds the run of wipefs, which takes some milliseconds.
const signatureWait = 30 * time.Second

// Signatures returns the signatures in an image, by util-linux's wipefs without changes.
// The program reads a copy of the image's beginning and end in memory, never the image
// itself, which others may exchange or which may be on a server. Errors are those of r, or
// wrap [ErrNoSignatures].
func Signatures(ctx context.Context, r Reader) ([]Signature, error) {
	if r.Size() <= 0 {
		return nil, nil
	}
	program, err := wipefs()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSignatures, err)
	}
	places, err := copyPlaces(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = places.Close() }() // a copy
	ctx, cancel := context.WithTimeout(ctx, signatureWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--no-act", "--json", "--output", "OFFSET,TYPE", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{places}
	cmd.Env = []string{"LC_ALL=C", "LIBBLKID_DEBUG=0"}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if os.Geteuid() == 0 { // a guest or a server has written what it parses
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoSignatures, ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%w: %w: %q", ErrNoSignatures, err, strings.TrimSpace(complaint.String()))
	}
	return parseSignatures(out)
}

const nobody = 65534 // the kernel's overflow user, which owns nothing

// wipefs returns the path of the program, which is not in the search path of every user.
func wipefs() (string, error) {
	path, err := exec.LookPath("wipefs")
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, "wipefs"))
	}
	return path, err
}

// copyPlaces returns a file in memory of the image's size, with the image's beginning and
// end in it and nothing between them.
func copyPlaces(r Reader) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate("luksplug-signatures", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "luksplug-signatures")
	defer func() {
		if err != nil {
			_ = f.Close() // the first error counts
		}
	}()
	if err := f.Truncate(r.Size()); err != nil {
		return nil, err
	}
	head := min(signatureHead, r.Size())
	tail := max(head, r.Size()-signatureTail)
	for _, part := range []struct{ from, to int64 }{{0, head}, {tail, r.Size()}} {
		b, err := readUpTo(r, part.from, int(part.to-part.from))
		if err != nil {
			return nil, err
		}
		if _, err := f.WriteAt(b, part.from); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func parseSignatures(out []byte) ([]Signature, error) {
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, nil // there is none
	}
	var answer struct {
		Signatures []struct{ Offset, Type string }
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("%w: its answer: %w", ErrNoSignatures, err)
	}
	var found []Signature
	for _, s := range answer.Signatures {
		offset, err := strconv.ParseInt(s.Offset, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: its answer: %w", ErrNoSignatures, err)
		}
		found = append(found, Signature{Offset: offset, Type: s.Type})
	}
	return found, nil
}

// From returns the part of an image from an offset on. Closing it closes nothing.
func From(r Reader, offset int64) Reader {
	return part{io.NewSectionReader(r, offset, max(r.Size()-offset, 0))}
}

type part struct{ *io.SectionReader }

// Close implements [io.Closer].
func (part) Close() error { return nil }
