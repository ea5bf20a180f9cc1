package image_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

// TestOpeners: another process that has the file open is found; this one is not, nor its children before they execute their
// programs, when they have all of its descriptors.
func TestOpeners(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	f := must.Get(os.Create(path))(t)
	defer func() { _ = f.Close() }()
	stop := make(chan struct{})
	var started sync.WaitGroup
	for range 8 {
		started.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run() // all that counts is that there are new processes
				}
			}
		})
	}
	for range 50 {
		if users := must.Get(image.Openers(path))(t); len(users) > 0 {
			t.Errorf("found: %q", users)
			break
		}
	}
	close(stop)
	started.Wait()
	other := exec.CommandContext(t.Context(), "sleep", "60")
	other.ExtraFiles = []*os.File{f}
	must.OK(t, other.Start())
	defer func() { _ = other.Wait() }()
	defer func() { _ = other.Process.Kill() }()
	if users := must.Get(image.Openers(path))(t); len(users) != 1 || !strings.HasPrefix(users[0], "sleep (pid ") {
		t.Errorf("a process with the file open: %q", users)
	}
}
