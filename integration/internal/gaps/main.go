package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 4 {
		_, _ = fmt.Fprintln(os.Stderr, "usage: gaps DISK ASK ANSWER") // exits anyway
		os.Exit(2)
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1) // the only garbage is one line for each answer
	g, err := begin(os.Args[1], os.Args[2], os.Args[3])
	for err == nil {
		err = g.turn()
	}
	_, _ = fmt.Fprintln(os.Stderr, "gaps: error:", err) // exits anyway
	os.Exit(1)
}

// nap is the sleep between two turns.
const nap = time.Millisecond

// gaps is the measurement.
type gaps struct {
	timer, disk watch
	writer      *writer
	questions   int // the descriptor of a pipe, without waiting
	answer      string
}

func begin(disk, ask, answer string) (*gaps, error) {
	w, err := newWriter(disk)
	if err != nil {
		return nil, err
	}
	questions, err := unix.Open(ask, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ask, err)
	}
	return &gaps{writer: w, questions: questions, answer: answer}, nil
}

// turn sleeps, checks the disk, and answers a question if there is one.
func (g *gaps) turn() error {
	// Go's scheduler does not see a raw system call. A signal of the Go runtime only makes a turn shorter.
	sleep := unix.NsecToTimespec(nap.Nanoseconds())
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&sleep)), 0, 0)
	now := time.Now()
	g.timer.turn(now)
	written, err := g.writer.written()
	if err != nil {
		return err
	}
	if written {
		g.disk.turn(now)
	}
	if asked(g.questions) {
		return reply(g.answer, &g.timer, &g.disk)
	}
	return nil
}

// asked reports whether a question is pending.
func asked(questions int) bool {
	var text [64]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(questions), uintptr(unsafe.Pointer(&text)), unsafe.Sizeof(text))
	return errno == 0 && n > 0 // otherwise no writer has opened the pipe, or written yet
}

// reply answers a question. It opens and closes the pipe, so that the reader sees the end of the answer.
func reply(answer string, timer, disk *watch) error {
	to, err := os.OpenFile(answer, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = to.WriteString(report(timer, disk))
	return errors.Join(err, to.Close())
}
