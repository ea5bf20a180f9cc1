package hook_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
)

// TestUntrustedMonitorDirectory: a domain does not start whose monitor would be in a
// directory that other users can change, who could take the monitor's place.
func TestUntrustedMonitorDirectory(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	e := event(t, h, hook.Prepare, "-", recordtest.Disk(t, 1))
	doc := must.Get(domainxml.Parse(e.XML))(t)
	monitors := filepath.Dir(filepath.Dir(domainxml.MonitorSocket(doc.Arguments())))
	must.OK(t, os.MkdirAll(monitors, 0o755), os.Chmod(monitors, 0o777))
	if _, err := h.Run(context.Background(), e); !errors.Is(err, hotplug.ErrUntrusted) || !strings.Contains(err.Error(), monitors+" has mode 0777") {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
	if entries := must.Get(os.ReadDir(monitors))(t); len(entries) > 0 {
		t.Errorf("made %v", entries)
	}
}
