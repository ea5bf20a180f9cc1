package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// qcow2 makes a qcow2 image for the request. With a LUKS header the image is encrypted: qemu-img reserves the place with a
// one-time passphrase, and the header replaces its own.
func (f *file) qcow2(ctx context.Context, r Request, header []byte) error {
	args := []string{"create", "-q", "-f", "qcow2"}
	options := r.Qcow2.options()
	var extra []*os.File
	if header != nil {
		key, err := oneTimeKey()
		if err != nil {
			return err
		}
		defer fsutil.CloseRead(key)
		extra = []*os.File{key}
		args = append(args, "--object", "secret,id=key,file=/proc/self/fd/3")
		options = append(options, "encrypt.format=luks", "encrypt.key-secret=key", "encrypt.iter-time=10")
	}
	if r.Preallocation != PreallocationOff {
		options = append(options, "preallocation=metadata")
	}
	if b := r.Backing; b != nil {
		// -u: the image was examined, and qemu-img would need the passphrase of an encrypted one.
		args = append(args, "-u", "-b", b.Path, "-F", b.Format)
	}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	if err := runQemuImg(ctx, append(args, f.temporary, strconv.FormatInt(r.Size, 10)), extra); err != nil {
		return err
	}
	return f.change(func(opened *os.File) error {
		if header == nil {
			return nil
		}
		q, err := image.ReadQcow2(opened)
		if err != nil {
			return err
		}
		if q.LUKS == nil || q.LUKSLength < int64(len(header)) {
			return fmt.Errorf("qemu-img has left no place for a LUKS header of %d bytes", len(header))
		}
		_, err = opened.WriteAt(header, q.LUKSOffset)
		return err
	})
}

// options returns the values of -o.
func (q Qcow2) options() (out []string) {
	if q.Compat != "" {
		out = append(out, "compat="+q.Compat)
	}
	if q.ClusterSize != 0 {
		out = append(out, fmt.Sprintf("cluster_size=%d", q.ClusterSize))
	}
	if q.LazyRefcounts {
		out = append(out, "lazy_refcounts=on")
	}
	if q.ExtendedL2 {
		out = append(out, "extended_l2=on")
	}
	return out
}

func runQemuImg(ctx context.Context, args []string, extra []*os.File) error {
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	cmd.ExtraFiles = extra
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("qemu-img create: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// oneTimeKey returns a file in memory with a random passphrase.
func oneTimeKey() (*os.File, error) {
	fd, err := unix.MemfdCreate("luksplug-passphrase", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "luksplug-passphrase")
	passphrase := randomPassphrase()
	defer passphrase.Wipe()
	if err := passphrase.Use(func(value []byte) error {
		_, err := f.WriteAt(value, 0)
		return err
	}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
