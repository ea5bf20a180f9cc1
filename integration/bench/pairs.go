package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// pairs are the times of two methods.
type pairs struct {
	reference, ours []time.Duration
}

// warmUp is how many pairs run before the first that counts.
const warmUp = 2

// compare runs the two methods in turn, n times each. clean, which is not timed, prepares the VM for the next
// run.
func compare(ctx context.Context, n int, reference, ours, clean func(context.Context) error) (pairs, error) {
	var p pairs
	ways := [2]func(context.Context) error{reference, ours}
	times := [2]*[]time.Duration{&p.reference, &p.ours}
	for i := range n + warmUp {
		for j := range ways {
			k := (i + j) % 2 // the order alternates
			begin := time.Now()
			if err := ways[k](ctx); err != nil {
				return p, err
			}
			took := time.Since(begin)
			if i >= warmUp {
				*times[k] = append(*times[k], took)
			}
			if err := clean(ctx); err != nil {
				return p, fmt.Errorf("make the VM ready for the next run: %w", err)
			}
		}
	}
	return p, nil
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// machine describes the processors.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo") // without it the name is missing
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d processors (%s), software emulation", runtime.NumCPU(), model)
}
