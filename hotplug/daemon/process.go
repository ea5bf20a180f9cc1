package daemon

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

// Process is one process of this machine, and no later one that has got its
// number.
type Process struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks since the machine did (proc(5),
	// field 22 of /proc/PID/stat). 0 stands for whatever process has the number
	// when it is first looked at.
	Start uint64 `json:"start"`
}

// errGone: the process has ended.
var errGone = errors.New("the process has ended")

// ProcessOf returns the process that has the number pid now. One that has ended
// and is still to be waited for is an error too.
func ProcessOf(pid int) (Process, error) {
	h, err := Process{PID: pid}.open()
	if err != nil {
		return Process{}, err
	}
	h.close()
	return h.process, nil
}

// startTime reads field 22 of /proc/PID/stat. The error is errGone for a
// process that is not there; that of a zombie is told.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("process %d: %w", pid, errGone)
	}
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStart(pid, string(data))
}

// parseStart takes the start time out of a line of /proc/PID/stat.
func parseStart(pid int, stat string) (uint64, error) {
	// Field 2 is the program's name in parentheses, and may itself hold spaces
	// and parentheses.
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	const start = 22 - 3 // the fields after the name begin with number 3
	if end < 0 || len(fields) <= start {
		return 0, fmt.Errorf("process %d: /proc/%d/stat is not as proc(5) has it", pid, pid)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process %d: start time: %w", pid, err)
	}
	return ticks, nil
}

// handle refers to a process by a pidfd (pidfd_open(2)), so that neither a wait
// nor a signal can meet another one. It serves one goroutine.
type handle struct {
	process Process
	file    *os.File
}

// open returns a handle of p. The error is errGone when p has ended, even if
// another process has its number by now.
func (p Process) open() (*handle, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", p.PID, errGone)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", p.PID, err)
	}
	// Non-blocking is what makes os.NewFile hand it to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("process %d: pidfd: %w", p.PID, err)
	}
	h := &handle{process: p, file: os.NewFile(uintptr(fd), "pidfd")}
	// Only now: the process that has the number now is the one of the pidfd, or
	// that one has ended, which the next wait tells.
	if err := h.identify(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// identify compares the start time, or finds it out. The error is errGone if it is
// another one, or if the process has ended.
func (h *handle) identify() error {
	start, err := startTime(h.process.PID)
	// The pidfd has the last word: /proc may hide a process that runs, and show
	// one of which only some threads have ended as a zombie.
	ended, endErr := h.ended()
	switch {
	case endErr != nil:
		return endErr
	case ended, err == nil && h.process.Start != 0 && h.process.Start != start:
		return fmt.Errorf("process %d: %w", h.process.PID, errGone)
	case errors.Is(err, errGone):
		return fmt.Errorf("process %d cannot be seen in /proc: is it mounted with hidepid?", h.process.PID)
	case err != nil:
		return err
	}
	h.process.Start = start
	return nil
}

func (h *handle) close() { _ = h.file.Close() } // a pidfd has nothing to lose

// wait returns nil when the process has ended, and ctx's error when that comes
// first.
func (h *handle) wait(ctx context.Context) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := h.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("process %d: wait: %w", h.process.PID, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = h.file.SetReadDeadline(time.Unix(1, 0)) // cannot fail where it has not above
		close(interrupted)
	})
	err = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if !stop() {
		<-interrupted // a deadline set late would cut the next wait short
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("process %d: wait: %w", h.process.PID, err)
}

// ended reports whether the process has ended, without waiting.
func (h *handle) ended() (bool, error) {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return false, err
	}
	var done bool
	err = conn.Control(func(fd uintptr) { done = readable(int(fd)) })
	return done, err
}

// readable reports what a pidfd is when its process has ended.
func readable(fd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// signal sends a signal. One to a process that has ended is no error.
func (h *handle) signal(sig unix.Signal) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if failed != nil && !errors.Is(failed, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), h.process.PID, failed)
	}
	return nil
}

// runsAs returns nil if all user ids of the process are uid, and errGone if it
// has ended.
func (h *handle) runsAs(uid uint32) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.process.PID))
	ended, endErr := h.ended()
	switch {
	case endErr != nil:
		return endErr
	case ended: // and status may be another's
		return fmt.Errorf("process %d: %w", h.process.PID, errGone)
	case err != nil:
		return fmt.Errorf("process %d: %w", h.process.PID, err)
	}
	ids, err := statusIDs(string(status), "Uid:")
	if err != nil {
		return fmt.Errorf("process %d: %w", h.process.PID, err)
	}
	for _, id := range ids {
		if id != uid {
			return fmt.Errorf("process %d runs as user %d, not as user %d: %w", h.process.PID, id, uid, ErrFolder)
		}
	}
	return nil
}
