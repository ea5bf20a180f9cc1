package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writer writes the first sector of a disk without blocking: io_setup(2), io_submit(2), io_getevents(2).
type writer struct {
	context uintptr
	control [1]*controlBlock
	event   ioEvent
}

// controlBlock is struct iocb and ioEvent is struct io_event of linux/aio_abi.h, on x86-64.
type controlBlock struct {
	_      uint64 // data
	_      uint32 // key
	_      uint32 // aio_rw_flags
	opcode uint16
	_      int16 // reqprio
	fd     uint32
	buffer uintptr
	length uint64
	_      int64 // offset
	_      uint64
	_      uint32 // flags
	_      uint32 // resfd
}

type ioEvent struct {
	_, _ uint64 // data, obj
	res  int64
	_    int64 // res2
}

const (
	opcodeWrite = 1 // IOCB_CMD_PWRITE
	sector      = 512
)

// newWriter opens the disk and begins the first write.
func newWriter(disk string) (*writer, error) {
	fd, err := unix.Open(disk, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", disk, err)
	}
	// O_DIRECT needs aligned memory, such as a page.
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("get a page of memory: %w", err)
	}
	w := &writer{}
	w.control[0] = &controlBlock{opcode: opcodeWrite, fd: uint32(fd), buffer: uintptr(unsafe.Pointer(&page[0])), length: sector}
	if _, _, errno := unix.RawSyscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&w.context)), 0); errno != 0 {
		return nil, fmt.Errorf("io_setup: %w", errno)
	}
	return w, w.begin()
}

// begin begins a write.
func (w *writer) begin() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_IO_SUBMIT, w.context, 1, uintptr(unsafe.Pointer(&w.control[0]))); errno != 0 {
		return fmt.Errorf("begin a write: %w", errno)
	}
	return nil
}

// written reports whether the write is done, and then begins the next one.
func (w *writer) written() (bool, error) {
	var now unix.Timespec // no time to wait
	n, _, errno := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, w.context, 0, 1, uintptr(unsafe.Pointer(&w.event)), uintptr(unsafe.Pointer(&now)), 0)
	switch {
	case errno != 0 && errno != unix.EINTR:
		return false, fmt.Errorf("get the result of a write: %w", errno)
	case errno != 0 || n == 0:
		return false, nil
	case w.event.res != sector:
		return false, fmt.Errorf("a write ended with %d", w.event.res)
	}
	return true, w.begin()
}
