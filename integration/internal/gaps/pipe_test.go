package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The whole program on a file instead of a disk: it writes, and it answers
// through the pipes.
func TestMeasure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk, ask, answer := filepath.Join(dir, "disk"), filepath.Join(dir, "ask"), filepath.Join(dir, "answer")
	if err := os.WriteFile(disk, []byte(strings.Repeat("x", 2*sector)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{ask, answer} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := begin(disk, ask, answer)
	if err != nil {
		t.Fatal(err)
	}
	for g.disk.turns < 3 || g.timer.turns < 3 {
		if err := g.turn(); err != nil {
			t.Fatal(err)
		}
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
			if err := g.turn(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
