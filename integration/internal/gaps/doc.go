// Command gaps runs in a guest and measures for how long the guest stood still. `make bench-stall` builds it,
// brings it into its VM on a disk, and runs it there; it has no other use.
//
//	gaps DISK ASK ANSWER
//
// It sleeps a millisecond at a time, and writes one sector of DISK after the other, without the guest's
// cache. Of both it records the longest time between two turns: the time that a program in the guest would
// have lost.
//
// ASK and ANSWER are named pipes. Any text in ASK is answered with one line of four numbers: the longest gap
// of the timer and of the disk since the last answer, in microseconds, and the number of turns of each. DISK
// loses its first sector.
//
// An emulated processor is slow, and its work for this program is time that the program cannot measure. So
// there is a single thread, whose only blocking system call is its sleep, and with which Go's scheduler has
// nothing to do: with one thread for the timer and one for the disk, the scheduler took more time than all
// else.
package main
