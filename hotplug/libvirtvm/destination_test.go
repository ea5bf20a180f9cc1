package libvirtvm

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
)

// TestEndlessAnswer: a destination that writes without end, instead of a report, is reported as such, and soon.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	doc, err := domainxml.Parse([]byte("<domain type='kvm'><name>vm1</name></domain>"))
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"exec yes", "exec yes >&2"} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := &migrateCheck{doc: doc}
		c.luksplug(ctx, []string{"sh", "-c", script})
		if ctx.Err() != nil || len(c.Findings) != 1 || c.Findings[0].Good || !strings.Contains(c.Findings[0].Text, "cannot be run on the destination") || len(c.Findings[0].Text) > 1000 {
			t.Errorf("%s: %v, %.1000v", script, ctx.Err(), c.Findings)
		}
	}
}
