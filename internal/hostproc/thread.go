package hostproc

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread calls f on an operating system thread that runs nothing else and ends after f. What f changes for
// its thread alone (identity, capabilities, namespaces, file mode mask, descriptor table) does not affect the
// rest of the process. OnThread returns f's error.
func OnThread(f func() error) error { return OnThreadUntil(nil, f) }

// OnThreadUntil is OnThread with a thread that ends when end is closed, if f returns no error: Linux signals a process
// that f has started with Pdeathsig when that thread ends (prctl(2), PR_SET_PDEATHSIG). nil is closed already.
func OnThreadUntil(end <-chan struct{}, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end with its goroutine, and /proc/self shows its properties. While it
			// is locked here, the next goroutine runs on another thread.
			defer runtime.UnlockOSThread()
			done <- OnThreadUntil(end, f)
			return
		}
		err := f()
		done <- err
		if err == nil && end != nil {
			<-end
		}
		// Not unlocked: the runtime ends the thread with the goroutine.
	}()
	return <-done
}
