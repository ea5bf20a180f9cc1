package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/qapi"
)

// Signature is a mark of a file system, partition table, volume manager, RAID or swap
// space in an image.
type Signature struct {
	Offset int64
	Type   string // the name in libblkid: "ext4", "gpt", "LVM2_member"
}

// IncompleteSignature is the type of the signature of a LUKS volume that is being filled, see luks.ErrIncomplete.
const IncompleteSignature = "crypto_LUKS_incomplete"

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

// Searches finds signatures, and remembers what it has found: an attach examines its images
// twice, and the program takes longer than reading them. The zero value is ready. It is safe
// for concurrent use.
type Searches struct {
	ahead sync.WaitGroup // of Begin
	mu    sync.Mutex
	done  []search
}

type search struct {
	places places
	found  []Signature
}

// Begin searches an image in the background, so that a later [Searches.Signatures] need not
// wait for it. Errors are left to that. The search ends early when ctx ends; [Searches.Wait]
// waits for it.
func (s *Searches) Begin(ctx context.Context, open func() (Reader, error)) {
	s.ahead.Go(func() {
		r, err := open()
		if err != nil {
			return
		}
		defer fsutil.CloseRead(r)
		_, _ = s.search(ctx, r)
	})
}

// Wait returns when all searches that Begin has begun have ended.
func (s *Searches) Wait() { s.ahead.Wait() }

// Signatures returns the signatures in an image, by util-linux's wipefs without changes.
// The program reads a copy of the image's beginning and end in memory, never the image
// itself, which others may exchange or which may be on a server. It does not run again for
// the same bytes. Errors are those of r, or wrap [ErrNoSignatures].
func (s *Searches) Signatures(ctx context.Context, r Reader) ([]Signature, error) {
	s.Wait()
	return s.search(ctx, r)
}

func (s *Searches) search(ctx context.Context, r Reader) ([]Signature, error) {
	if r.Size() <= 0 {
		return nil, nil
	}
	program, err := wipefs()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSignatures, err)
	}
	p, err := readPlaces(r)
	if err != nil {
		return nil, err
	}
	if found, known := s.known(p); known {
		return found, nil
	}
	found, err := runWipefs(ctx, program, p)
	if err == nil {
		found = p.addMarks(found)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done = append(s.done, search{p, found})
	}
	return found, err
}

// known returns the result of an earlier search of the same bytes.
func (s *Searches) known(p places) (found []Signature, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.done {
		if d.places.equal(p) {
			return d.found, true
		}
	}
	return nil, false
}

func runWipefs(ctx context.Context, program string, p places) ([]Signature, error) {
	file, err := p.file()
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // a copy
	ctx, cancel := ending.After(ctx, signatureWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--no-act", "--json", "--output", "OFFSET,TYPE", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{file}
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

// places are the beginning and the end of an image.
type places struct {
	head, tail []byte
	tailAt     int64
	size       int64 // of the image
}

func readPlaces(r Reader) (p places, err error) {
	p.size = r.Size()
	head := min(signatureHead, p.size)
	p.tailAt = max(head, p.size-signatureTail)
	if p.head, err = readUpTo(r, 0, int(head)); err != nil {
		return p, err
	}
	p.tail, err = readUpTo(r, p.tailAt, int(p.size-p.tailAt))
	return p, err
}

func (p places) equal(q places) bool {
	return p.size == q.size && bytes.Equal(p.head, q.head) && bytes.Equal(p.tail, q.tail)
}

// file returns a file in memory of the image's size, with the places in it and nothing
// between them.
func (p places) file() (*os.File, error) {
	return fsutil.MemoryFile("luksplug-signatures", func(f *os.File) error {
		if err := f.Truncate(p.size); err != nil {
			return err
		}
		if _, err := f.WriteAt(p.head, 0); err != nil {
			return err
		}
		_, err := f.WriteAt(p.tail, p.tailAt)
		return err
	})
}

// mark is a signature of texts at offsets; a negative one counts from the end of the image.
type mark struct {
	name  string
	texts map[int]string
}

// marks are those of volumes which other programs than cryptsetup encrypt, and of luksplug's own that are not filled
// yet. libblkid does not know the last two, knows FileVault since 2.39, and finds BitLocker by data far inside of the
// volume, which is not read.
var marks = []mark{
	{"BitLocker", map[int]string{3: "-FVE-FS-"}},                            // libbde: "BitLocker Drive Encryption format", volume header
	{"cs_fvault2", map[int]string{8: "\x01\x00\x10\x00", 88: "CS"}},         // libfvde: "FileVault Drive Encryption format", volume header
	{"geli", map[int]string{-512: "GEOM::ELI\x00\x00\x00\x00\x00\x00\x00"}}, // FreeBSD: sys/geom/eli/g_eli.h, in the last sector
	{IncompleteSignature, map[int]string{0: "PLUK\xba\xbe"}},                // secrets/luks: the first copy of a header
}

// addMarks appends the marks that are in the places, unless libblkid has found them.
func (p places) addMarks(found []Signature) []Signature {
	for _, m := range marks {
		if slices.ContainsFunc(found, func(s Signature) bool { return s.Type == m.name }) {
			continue
		}
		at, all := int64(0), true
		for offset, text := range m.texts {
			place := int64(offset)
			if offset < 0 {
				place += p.size
				at = place
			}
			all = all && p.has(place, text)
		}
		if all {
			found = append(found, Signature{Offset: at, Type: m.name})
		}
	}
	return found
}

// has reports whether the text is at an offset of the image.
func (p places) has(at int64, text string) bool {
	part := p.head
	if at >= int64(len(p.head)) {
		part, at = p.tail, at-p.tailAt
	}
	return at >= 0 && at <= int64(len(part)) && bytes.HasPrefix(part[at:], []byte(text))
}

func parseSignatures(out []byte) ([]Signature, error) {
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, nil // there is none
	}
	var answer struct {
		Signatures []struct{ Offset, Type string }
	}
	if err := qapi.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("%w: its answer: %w", ErrNoSignatures, err)
	}
	var found []Signature
	for _, s := range answer.Signatures {
		offset, err := strconv.ParseInt(s.Offset, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: its answer has the offset %q", ErrNoSignatures, s.Offset)
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
