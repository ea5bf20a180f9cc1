package hostproc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process identifies one process of this machine. A later process with the same id is another Process.
type Process struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks since the machine booted (proc(5), field 22 of /proc/PID/stat).
	// 0 is the process that has the id when it is first opened.
	Start uint64 `json:"start"`
}

// ErrEnded reports that a process has ended, also if its parent has not yet waited for it.
var ErrEnded = errors.New("the process has ended")

// ProcessOf returns the process that has the id pid now. The error wraps [ErrEnded] if there is none.
func ProcessOf(pid int) (Process, error) {
	h, err := Process{PID: pid}.Open()
	if err != nil {
		return Process{}, err
	}
	h.Close()
	return h.process, nil
}

// Alive reports whether the process runs. It returns false if that is not known.
func (p Process) Alive() bool {
	now, err := ProcessOf(p.PID)
	return err == nil && now == p
}

// startTime reads field 22 of /proc/PID/stat. The error wraps ErrEnded if there
// is no such process; a zombie still has a start time.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = ErrEnded
	}
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStart(pid, string(data))
}

// parseStart returns the start time in a line of /proc/PID/stat.
func parseStart(pid int, stat string) (uint64, error) {
	// Field 2 is the program's name in parentheses, which may itself contain spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	const start = 22 - 3 // the fields after the name begin with number 3
	if end < 0 || len(fields) <= start {
		return 0, fmt.Errorf("process %d: /proc/%d/stat is not as proc(5) documents it", pid, pid)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process %d: its start time in /proc/%d/stat is no number", pid, pid)
	}
	return ticks, nil
}

// Handle refers to a process by a pidfd (pidfd_open(2)), so that no wait and no
// signal can reach another process. One goroutine at a time may use it.
type Handle struct {
	process Process
	file    *os.File
}

// Open returns a handle of p, which the caller closes. The error wraps
// [ErrEnded] if p has ended, even if another process has its id by now.
func (p Process) Open() (*Handle, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", p.PID, ErrEnded)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", p.PID, err)
	}
	// os.NewFile gives only non-blocking descriptors to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("process %d: pidfd: %w", p.PID, err)
	}
	h := &Handle{process: p, file: os.NewFile(uintptr(fd), "pidfd")}
	// Checked after opening: the process that has the id now is that of the pidfd, or the pidfd's has ended,
	// which identify checks.
	if err := h.identify(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// identify compares the start time, or sets it if it is 0. The error wraps
// ErrEnded if the start time differs or the process has ended.
func (h *Handle) identify() error {
	start, err := startTime(h.process.PID)
	// The pidfd decides: /proc may hide a running process, and shows one of which
	// only some threads have ended as a zombie.
	ended, endErr := h.Ended()
	switch {
	case endErr != nil:
		return endErr
	case ended, err == nil && h.process.Start != 0 && h.process.Start != start:
		return fmt.Errorf("process %d: %w", h.process.PID, ErrEnded)
	case errors.Is(err, ErrEnded):
		return fmt.Errorf("process %d cannot be seen in /proc: is it mounted with hidepid?", h.process.PID)
	case err != nil:
		return err
	}
	h.process.Start = start
	return nil
}

// Process returns the process that h refers to.
func (h *Handle) Process() Process { return h.process }

// Close releases the handle. The process continues.
func (h *Handle) Close() { _ = h.file.Close() } // nothing is written to a pidfd

// Wait returns nil when the process has ended, or ctx's error if ctx ends first.
// The handle can be used again afterwards.
func (h *Handle) Wait(ctx context.Context) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := h.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("process %d: wait: %w", h.process.PID, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = h.file.SetReadDeadline(time.Unix(1, 0)) // cannot fail: it did not above
		close(interrupted)
	})
	err = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if !stop() {
		<-interrupted // a deadline set late would interrupt the next Wait
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("process %d: wait: %w", h.process.PID, err)
}

// Ended reports whether the process has ended. It does not wait.
func (h *Handle) Ended() (ended bool, err error) {
	err = h.control(func(fd int) { ended = readable(fd) })
	return ended, err
}

// control calls f with the pidfd, which stays open meanwhile.
func (h *Handle) control(f func(fd int)) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) { f(int(fd)) })
}

// readable reports whether a pidfd is readable, which it is once its process has ended.
func readable(fd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// Signal sends a signal. It returns nil if the process has ended.
func (h *Handle) Signal(sig unix.Signal) error {
	var failed error
	if err := h.control(func(fd int) { failed = unix.PidfdSendSignal(fd, sig, nil, 0) }); err != nil {
		return err
	}
	if failed != nil && !errors.Is(failed, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), h.process.PID, failed)
	}
	return nil
}

// UserIDs returns the real, effective, saved and file system user id of the
// process. The error wraps [ErrEnded] if it has ended.
func (h *Handle) UserIDs() ([]uint32, error) {
	status, err := readStatus(h.process.PID)
	ended, endErr := h.Ended()
	switch {
	case endErr != nil:
		return nil, endErr
	case ended: // and status may be another process's
		return nil, fmt.Errorf("process %d: %w", h.process.PID, ErrEnded)
	}
	var ids []uint32
	if err == nil {
		ids, err = statusIDs(status, "Uid:")
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", h.process.PID, err)
	}
	return ids, nil
}

// Getenv returns a variable of the environment that process pid was started with, and whether it is set. It
// returns false if the environment cannot be read, as that of another user's process.
func Getenv(pid int, name string) (string, bool) {
	environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for v := range strings.SplitSeq(string(environment), "\x00") {
		if value, found := strings.CutPrefix(v, name+"="); found {
			return value, true
		}
	}
	return "", false
}

// BootID returns the id of this run of the host's system (proc(5), /proc/sys/kernel/random/boot_id).
func BootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // every Linux has it
	return strings.TrimSpace(string(id))
}
