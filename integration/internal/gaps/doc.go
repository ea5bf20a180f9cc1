// Command gaps runs in a guest and measures the guest's longest pauses. `make bench-stall` builds it, copies it
// into its VM by a disk, and runs it there.
//
//	gaps DISK ASK ANSWER
//
// It sleeps for a millisecond at a time, and writes the first sector of DISK again and again, without the
// guest's cache. For both it records the longest time between two turns: the time that a program in the guest
// loses.
//
// ASK and ANSWER are named pipes. Any text in ASK is answered with one line of four numbers: the longest gap
// of the timer and of the disk since the last answer, in microseconds, and the number of turns of each. DISK
// loses its first sector.
//
// On an emulated processor the program's own processor time distorts the measurement. So there is a single
// thread, whose only blocking system call is its sleep, and Go's scheduler is idle: with one thread for the
// timer and one for the disk, the scheduler took more time than everything else.
package main
