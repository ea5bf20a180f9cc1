package hotplug_test

import (
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug"
)

// TestUnfinished: during an attach and a detach the caller is told what would be left if the program ended, and after
// them, also after a rollback, nothing.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	var told [][]string
	v, _ := vm(t, hotplug.Options{RunDir: t.TempDir(), OnUnfinished: func(left []string) { told = append(told, slices.Clone(left)) }})
	want := func(what string, parts ...string) {
		t.Helper()
		if len(told) < 2 || len(told[len(told)-1]) != 0 {
			t.Errorf("%s: told %q", what, told)
		}
		for _, part := range parts {
			if !slices.ContainsFunc(told, func(left []string) bool { return slices.Contains(left, part) }) {
				t.Errorf("%s: %s was not told of: %q", what, part, told)
			}
		}
		told = nil
	}
	if _, err := v.Attach(ctx, luksDisk(t, "sda"), store("wrong"), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}); err == nil {
		t.Fatal("a wrong passphrase opens the volume")
	}
	want("a rollback", "the note of disk sda", "object luksplug-sda-secret0", "node luksplug-sda-luks")
	if _, err := v.Attach(ctx, luksDisk(t, "sda"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}); err != nil {
		t.Fatal(err)
	}
	want("an attach", "the note of disk sda", "object luksplug-sda-secret0", "node luksplug-sda-luks", "device luksplug-sda")
	if _, err := v.Detach(ctx, "sda", hotplug.DetachOptions{Wait: time.Minute}); err != nil {
		t.Fatal(err)
	}
	want("a detach", "node luksplug-sda-luks")
}
