package qmplibvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/luksplug/luksplug/qmp"
)

// Bounds of virsh's output, and of its end after a kill.
const (
	virshReplyLimit = 1 << 20 // add-fd's reply has some hundred bytes
	virshErrorLimit = 4 << 10
	virshWaitDelay  = 2 * time.Second
)

// Virsh passes files to the QEMU of a libvirt domain, through "virsh qemu-monitor-command --pass-fds", which
// libvirt has since 8.2 and only where libvirtd is on the same machine. Its PassFile is a [FilePasser]. One
// run of virsh takes some 20 ms, and does not stall QEMU.
type Virsh struct {
	Program string // path of virsh; empty: from PATH
	URI     string // of libvirt, as for --connect; empty: virsh's own default
	Domain  string // name, id or, best, UUID
}

// PassFile runs virsh once, in its own process group, without a shell. Every user of the machine can read
// the command in virsh's arguments.
//
// The error wraps [qmp.ErrNotSent] if virsh cannot be started, or reports that the command did not get
// beyond libvirt. After any other, such as ctx's end, when virsh is killed, QEMU may have got the command.
func (v Virsh) PassFile(ctx context.Context, command []byte, f *os.File) ([]byte, error) {
	if v.Domain == "" {
		return nil, fmt.Errorf("%w: virsh needs a domain", qmp.ErrNotSent)
	}
	program := v.Program
	if program == "" {
		program = "virsh"
	}
	args := []string{"--quiet"}
	if v.URI != "" {
		args = append(args, "--connect", v.URI)
	}
	args = append(args, "qemu-monitor-command", "--domain", v.Domain, "--pass-fds", "3", string(command))

	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C") // its texts are matched below
	cmd.ExtraFiles = []*os.File{f}             // descriptor 3
	out, diag := bounded{limit: virshReplyLimit}, bounded{limit: virshErrorLimit}
	cmd.Stdout, cmd.Stderr = &out, &diag
	// A terminal's ^C must not reach virsh: ctx decides when it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = virshWaitDelay
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: cannot start virsh, of libvirt's client programs: %w", qmp.ErrNotSent, err)
	}
	waitErr := cmd.Wait()
	var exit *exec.ExitError
	return virshAnswer(out.text, diag.text, virshEnd{ctx: ctx.Err(), err: waitErr, exited: errors.As(waitErr, &exit) && exit.Exited()})
}

// virshEnd is how virsh ended.
type virshEnd struct {
	ctx    error // that of the context, for which virsh was killed
	err    error
	exited bool // with a status
}

// virshAnswer returns the reply in virsh's output, or its error.
func virshAnswer(out, diag []byte, end virshEnd) ([]byte, error) {
	reply := bytes.TrimSpace(out)
	var message struct{ Return, Error json.RawMessage }
	if err := json.Unmarshal(reply, &message); err == nil && (message.Return != nil || message.Error != nil) {
		return reply, nil // even if virsh failed afterwards
	}
	said := strings.Join(strings.Fields(string(diag)), " ")
	switch {
	case end.ctx != nil:
		return nil, fmt.Errorf("virsh was killed: %w%s", end.ctx, quoted(said))
	case len(reply) == 0 && end.exited && virshGotNoFurther(said):
		return nil, fmt.Errorf("%w: virsh: %s", qmp.ErrNotSent, said)
	case end.err != nil:
		return nil, fmt.Errorf("virsh: %w%s", end.err, quoted(said))
	}
	return nil, fmt.Errorf("%w: virsh printed no reply of QEMU's", qmp.ErrProtocol)
}

// virshGotNoFurther reports whether virsh failed before the command reached QEMU: virsh had not sent it to
// libvirt, or libvirt had not passed it on.
func virshGotNoFurther(said string) bool {
	for _, text := range []string{
		"failed to connect to the hypervisor",
		"failed to get domain '",
		"doesn't support option --pass-fds", // a libvirt before 8.2
		"domain is not running",
	} {
		if strings.Contains(said, text) {
			return true
		}
	}
	return false
}

// quoted returns a program's own message as the end of an error's text.
func quoted(said string) string {
	if said == "" {
		return ""
	}
	return " (message: " + said + ")"
}

// bounded keeps the first limit bytes that are written to it.
type bounded struct {
	text  []byte
	limit int
}

// Write never fails, so that the program at the other end is not disturbed.
func (b *bounded) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), b.limit-len(b.text))]...)
	return len(p), nil
}
