package hook

import (
	"os/exec"
	"testing"
	"time"
)

func TestProcessStart(t *testing.T) {
	t.Parallel()
	before := time.Now()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	start, known := processStart(cmd.Process.Pid)
	const exact = 50 * time.Millisecond // a tick, and clocks that are read one after the other
	if !known || start.Before(before.Add(-exact)) || start.After(time.Now().Add(exact)) {
		t.Errorf("got %v %v, want about %v", start, known, before)
	}
	if _, known := processStart(1 << 30); known {
		t.Error("a process that is not there")
	}
}
