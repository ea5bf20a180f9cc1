package hostproc

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread calls f on an operating system thread that runs nothing else and ends after f. What f changes for
// its thread alone (identity, capabilities, namespaces, file mode mask, descriptor table) does not affect the
// rest of the process. OnThread returns f's error.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end with its goroutine, and /proc/self shows its properties. While it
			// is locked here, the next goroutine runs on another thread.
			defer runtime.UnlockOSThread()
			done <- OnThread(f)
			return
		}
		done <- f()
		// Not unlocked: the runtime ends the thread with the goroutine.
	}()
	return <-done
}
