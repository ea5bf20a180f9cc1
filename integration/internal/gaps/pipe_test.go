package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
)

// TestMeasure runs the program on a file instead of a disk: it writes, and answers through the pipes.
func TestMeasure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk, ask, answer := filepath.Join(dir, "disk"), filepath.Join(dir, "ask"), filepath.Join(dir, "answer")
	must.OK(t, os.WriteFile(disk, []byte(strings.Repeat("x", 2*sector)), 0o600))
	for _, path := range []string{ask, answer} {
		must.OK(t, unix.Mkfifo(path, 0o600))
	}
	g, err := begin(disk, ask, answer)
	must.OK(t, err)
	for g.disk.turns < 3 || g.timer.turns < 3 {
		must.OK(t, g.turn())
	}
	got := make(chan string, 1)
	go func() {
		text := []byte("?\n")
		if err := os.WriteFile(ask, text, 0); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(answer)
		if err != nil {
			t.Error(err)
		}
		got <- string(text)
	}()
	for {
		select {
		case text := <-got:
			var timer, written, timerTurns, diskTurns int
			if _, err := fmt.Sscan(text, &timer, &written, &timerTurns, &diskTurns); err != nil || timer < 1000 || written == 0 || timerTurns < 3 || diskTurns < 3 {
				t.Errorf("answer %q, error %v", text, err)
			}
			if content, err := os.ReadFile(disk); err != nil || string(content) != strings.Repeat("\x00", sector)+strings.Repeat("x", sector) {
				t.Errorf("the disk holds %q, error %v", content, err)
			}
			return
		default:
			must.OK(t, g.turn())
		}
	}
}
