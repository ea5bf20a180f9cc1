// Command gaps runs inside of a guest and finds out for how long the guest stood
// still. `make bench-stall` builds it, brings it into its VM on a disk, and runs
// it there; it is of no use to anybody else.
//
//	gaps DISK ASK ANSWER
//
// It sleeps a millisecond at a time, and writes one sector of DISK after the
// other, past the guest's cache. Of both it notes the longest time between two
// turns: that is what a program in the guest would have lost.
//
// ASK and ANSWER are named pipes. Whatever is written to ASK is answered with one
// line, four numbers: the longest gap of the timer and of the disk since the last
// answer, in microseconds, and how many turns each has had. DISK loses its first
// sector.
//
// An emulated processor is slow, and what it does for this program is time that
// it cannot measure. So there is a single thread, which asks the kernel for
// nothing that it would have to wait for but its sleep, and which Go's scheduler
// has no reason to look at: with a thread for the timer and one for the disk, the
// scheduler took more time than all else.
package main
