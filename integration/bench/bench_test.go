package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestRun runs everything once and expects a table, with any figures.
func TestRun(t *testing.T) {
	peer.Long(t, "runs all benchmarks for a moment")
	t.Parallel()
	var out strings.Builder
	must.OK(t, run(t.Context(), &out, size{single: 1, many: 1, disks: 2, process: 1, unlock: 1, iterTime: 1}))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 3+11 || !strings.HasPrefix(lines[2], "luksplug  ") {
		t.Fatalf("no table:\n%s", out.String())
	}
	for _, line := range lines[3:] {
		if len(strings.Fields(line)) < 6 {
			t.Errorf("line %q", line)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	var order []string
	note := func(what string) func(context.Context) error {
		return func(context.Context) error { order = append(order, what); return nil }
	}
	p, err := compare(t.Context(), 1, note("a"), note("b"), note("-"))
	if err != nil || len(p.reference) != 1 || len(p.ours) != 1 {
		t.Fatalf("%+v, error %v", p, err)
	}
	if got := strings.Join(order, ""); got != "a-b-b-a-a-b-" {
		t.Errorf("order %s", got)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for want, times := range map[time.Duration][]time.Duration{5: {9, 5, 1}, 4: {1, 9, 3, 5}, 7: {7}} {
		if got := median(times); got != want {
			t.Errorf("median of %d is %d, want %d", times, got, want)
		}
	}
}

func TestTargetName(t *testing.T) {
	t.Parallel()
	var got []string
	for _, i := range []int{0, 25, 26, 99} {
		got = append(got, targetName(i))
	}
	if want := []string{"sda", "sdz", "sdaa", "sdcv"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
