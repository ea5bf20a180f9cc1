package volume

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
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
	img := qemuImg{args: append(args, f.temporary, strconv.FormatInt(r.Size, 10)), files: extra}
	if err := img.run(ctx); err != nil {
		return err
	}
	return f.write(func(opened growing) error {
		if header == nil {
			return opened.Sync()
		}
		q, err := image.ReadQcow2(opened)
		if err != nil {
			return err
		}
		if q.LUKS == nil || q.LUKSLength < int64(len(header)) {
			return fmt.Errorf("qemu-img has left no place for a LUKS header of %d bytes", len(header))
		}
		if _, err = opened.WriteAt(header, q.LUKSOffset); err != nil {
			return err
		}
		return opened.Sync()
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

// qemuImg is a run of qemu-img.
type qemuImg struct {
	args  []string
	files []*os.File // its descriptors from 3 on
	user  *syscall.Credential
}

// qemu-img measures how fast it derives keys, and fails where the clock of processor time does not advance meanwhile, which
// happens by chance on a busy host (crypto/pbkdf.c).
const (
	noCPUTime       = "Unable to get accurate CPU usage"
	qemuImgAttempts = 20
)

// run runs qemu-img to its end, or kills it when ctx ends.
func (q qemuImg) run(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		cmd := exec.CommandContext(ctx, "qemu-img", q.args...)
		cmd.ExtraFiles = q.files
		// Another user reads the environment of a process that runs as that user.
		cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		// A signal from the terminal is for this process, which decides.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: q.user}
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		switch err := cmd.Run(); {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case attempt == qemuImgAttempts || !strings.Contains(complaint.String(), noCPUTime):
			return fmt.Errorf("qemu-img %s: %w: %s", q.args[0], err, strings.TrimSpace(complaint.String()))
		}
	}
}

// oneTimeKey returns a file in memory with a random passphrase.
func oneTimeKey() (*os.File, error) {
	passphrase := randomPassphrase()
	defer passphrase.Wipe()
	return keyFile(passphrase)
}

// keyFile returns a file in memory with a passphrase, for a program that reads it by its descriptor.
func keyFile(passphrase *secrets.Secret) (*os.File, error) {
	return fsutil.MemoryFile("luksplug-passphrase", func(f *os.File) error {
		return passphrase.Use(func(value []byte) error {
			_, err := f.WriteAt(value, 0)
			return err
		})
	})
}
