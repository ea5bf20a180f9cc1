package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// stallRuns is the number of measurements of each method.
const stallRuns = 7

// runStall measures how an attach delays a guest, and prints the table.
func runStall(ctx context.Context, out io.Writer, document string, runs int) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root can measure this: it takes a private libvirtd")
	}
	dir, err := os.MkdirTemp("", "luksplug-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	v, err := startStallVM(ctx, dir)
	if err != nil {
		return err
	}
	defer v.close()
	ways := v.ways()
	stalls, err := v.measure(ctx, ways, runs)
	if err != nil {
		return err
	}
	about, err := v.about(ctx)
	if err != nil {
		return err
	}
	return publish(out, document, about, stallTable(ways, stalls), verdict(ways, stalls))
}

// stall is the measurement of one attach.
type stall struct {
	command time.Duration // its duration
	answer  time.Duration // the longest time of a monitor's answer
	monitor time.Duration // the longest time between two answers
	timer   time.Duration // the guest's longest time between two turns of a timer
	disk    time.Duration // and between two writes to a disk
	// The number of turns of both.
	timerTurns, diskTurns int
}

// margin is measured before and after an attach: the guest learns of a disk after the last answer.
const margin = 200 * time.Millisecond

// measure runs all methods in turn, runs times each, in rotating order. The first round does not count.
func (v *stallVM) measure(ctx context.Context, ways []way, runs int) ([][]stall, error) {
	stalls := make([][]stall, len(ways))
	for round := range runs + 1 {
		for i := range ways {
			k := (round + i) % len(ways)
			s, err := v.watch(ctx, ways[k].attach)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ways[k].name, err)
			}
			if round > 0 {
				stalls[k] = append(stalls[k], s)
			}
			if err := v.clean(ctx, ways[k]); err != nil {
				return nil, fmt.Errorf("%s: make the VM ready for the next run: %w", ways[k].name, err)
			}
		}
	}
	return stalls, nil
}

// watch measures one attach.
func (v *stallVM) watch(ctx context.Context, attach func(context.Context) error) (stall, error) {
	if _, err := v.guestGaps(ctx); err != nil { // resets the gaps
		return stall{}, err
	}
	p := startPing(v.ping)
	wait(ctx, margin)
	begin := time.Now()
	err := attach(ctx)
	took := time.Since(begin)
	wait(ctx, margin)
	pinged, pingErr := p.stop()
	if err := errors.Join(err, pingErr, ctx.Err()); err != nil {
		return stall{}, err
	}
	s, err := v.guestGaps(ctx)
	if err == nil && (s.timerTurns == 0 || s.diskTurns == 0) {
		err = errors.New("the guest has measured nothing")
	}
	s.command, s.monitor, s.answer = took, pinged.gap, pinged.answer
	return s, err
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
