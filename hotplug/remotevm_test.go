package hotplug_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
)

// TestRemoteVM: for a VM on another host no file is read here, and QEMU itself finds
// what would cost data.
func TestRemoteVM(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{Files: hotplug.FilesRemote})
	before := state(ctx, t, v)
	luks := luksDisk(t, "sdb")
	header := filepath.Join(t.TempDir(), "header")
	content, err := os.ReadFile(luks.Image.Source.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(header, content, 0o600); err != nil {
		t.Fatal(err)
	}
	encryption := func(inner string) string {
		return `<encryption format='luks'><secret type='passphrase' usage='test'/>` + inner + `</encryption>`
	}
	path := luks.Image.Source.Path
	luks2 := filepath.Join(t.TempDir(), "luks2")
	if err := os.WriteFile(luks2, append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		disk *blockgraph.Disk
		says string
	}{
		"a LUKS1 volume taken as it is":     {parse(t, "sdb", "raw", path, ""), "add <encryption format='luks'>"},
		"a LUKS2 volume taken as it is":     {parse(t, "sdb", "raw", luks2, ""), "cannot tell whether the image " + luks2},
		"a payload with a header":           {parse(t, "sdb", "raw", path, encryption("<header type='file'><source file='"+header+"'/></header>")), "begins with a LUKS header of its own"},
		"a plain image taken for encrypted": {parse(t, "sdb", "raw", plainDisk(t, "sdb").Image.Source.Path, encryption("")), "not in LUKS format"},
	} {
		_, err := v.Attach(ctx, c.disk, store(key), hotplug.AttachOptions{})
		var back *hotplug.RolledBackError
		if !errors.As(err, &back) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Fatalf("%s: before %+v\nafter  %+v", name, before, after)
		}
	}

	// The correct disk is attached, and its copy refused.
	at, err := v.Attach(ctx, luks, store(key), hotplug.AttachOptions{})
	if err != nil || at.Unlock != blockgraph.MethodQEMU || at.Size != 8<<20 {
		t.Fatalf("attached: %+v, %v", at, err)
	}
	if _, err := v.Attach(ctx, plainDisk(t, "sdd"), nil, hotplug.AttachOptions{}); err != nil {
		t.Errorf("a plain image: %v", err)
	}
	var refused *hotplug.PreflightError
	same := parse(t, "sdc", "raw", path, encryption(""))
	if _, err := v.Attach(ctx, same, store(key), hotplug.AttachOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "is in use by disk sdb of this VM") {
		t.Errorf("the same file again: %v", err)
	}
	copied := parse(t, "sdc", "raw", header, encryption(""))
	if _, err := v.Attach(ctx, copied, store(key), hotplug.AttachOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "one header over two payloads") {
		t.Errorf("a copy of the volume: %v", err)
	}
	if at, err := v.Attach(ctx, copied, store(key), hotplug.AttachOptions{Spec: hotplug.Spec{AllowSharedHeader: true}}); err != nil || at.Size != 8<<20 {
		t.Errorf("a copy of the volume, as was allowed: %+v, %v", at, err)
	}
	for _, target := range []string{"sdb", "sdc", "sdd"} {
		if _, err := v.Detach(ctx, target, hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}
