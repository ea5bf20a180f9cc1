package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pinged is the result of pings.
type pinged struct {
	gap    time.Duration // the longest time between two answers
	answer time.Duration // the longest time of one answer
}

// ping queries the VM's status from a monitor every five milliseconds.
//
// It uses its own thread with real-time priority, without Go's poller, so that on busy processors it measures
// QEMU's delays and not the client's.
type ping struct {
	end  chan struct{}
	done chan struct{}
	got  pinged
	err  error
}

const (
	pingInterval = 5 * time.Millisecond
	// pingLimit is far more than any key derivation takes.
	pingLimit = time.Minute
)

// startPing begins, on a monitor without other clients.
func startPing(monitor *os.File) *ping {
	p := &ping{end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// The thread keeps its priority, so it ends with the goroutine.
		runtime.LockOSThread()
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if p.err = unix.SchedSetAttr(0, &attr, 0); p.err == nil {
			p.err = p.run(monitor)
		}
	}()
	return p
}

// stop ends the pings and returns their result.
func (p *ping) stop() (pinged, error) {
	close(p.end)
	<-p.done
	if p.err != nil {
		return pinged{}, fmt.Errorf("ping the monitor: %w", p.err)
	}
	return p.got, nil
}

func (p *ping) run(monitor *os.File) error {
	r := bufio.NewReader(monitor)
	question := []byte(`{"execute":"query-status"}` + "\n")
	sleep := unix.NsecToTimespec(pingInterval.Nanoseconds())
	var last time.Time
	for {
		asked := time.Now()
		if err := exchange(monitor, r, question); err != nil {
			return err
		}
		now := time.Now()
		p.got.answer = max(p.got.answer, now.Sub(asked))
		if !last.IsZero() {
			p.got.gap = max(p.got.gap, now.Sub(last))
		}
		last = now
		select {
		case <-p.end:
			return nil
		default:
		}
		_ = unix.Nanosleep(&sleep, nil) // a signal of Go's own makes one interval shorter
	}
}

// dialBlocking connects to a monitor with a socket whose reads and writes block their thread.
func dialBlocking(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	limit := unix.NsecToTimeval(pingLimit.Nanoseconds())
	err = errors.Join(
		unix.Connect(fd, &unix.SockaddrUnix{Name: path}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err == nil {
		err = exchange(f, bufio.NewReader(f), []byte(`{"execute":"qmp_capabilities"}`+"\n"))
	}
	if err != nil {
		_ = f.Close() // the first error is the one to report
		return nil, fmt.Errorf("connect to the monitor %s: %w", path, err)
	}
	return f, nil
}
