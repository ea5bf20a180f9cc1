package access

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

const profile = "libvirt-3e3fce45-4f53-4fa7-bb32-11f34168b82b"

// TestAppArmor: the domain's list of files gets our lines, and loses them again. The
// parser is a script that logs its arguments.
func TestAppArmor(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	list, called := filepath.Join(dir, profile+".files"), filepath.Join(dir, "called")
	const made = "# MANAGED BY libvirt\n  \"/srv/root.img\" rwk,\n"
	must.OK(t, os.WriteFile(list, []byte(made), 0o640))
	parser := filepath.Join(dir, "parser")
	script := func(end string) {
		t.Helper()
		must.OK(t, os.WriteFile(parser, []byte("#!/bin/sh\necho \"$@\" >> "+called+"\n"+end+"\n"), 0o700))
	}
	script("exit 0")
	wantList := func(text string) {
		t.Helper()
		got, err := os.ReadFile(list)
		if err != nil || string(got) != text {
			t.Errorf("got %q, error %v, want %q", got, err, text)
		}
	}
	calls := func() int {
		text, _ := os.ReadFile(called) // not there before the first
		return strings.Count(string(text), "-r "+filepath.Join(dir, profile)+"\n")
	}
	a := AppArmor{Dir: dir, Parser: parser}
	files := []File{{Path: "/srv/top image.qcow2", Write: true}, {Path: "/srv/base.qcow2"}}
	const vdb = "  \"/srv/top image.qcow2\" rwk, # luksplug vdb\n  \"/srv/base.qcow2\" rk, # luksplug vdb\n"
	const vdc = "  \"/srv/base.qcow2\" rk, # luksplug vdc\n"
	for range 2 {
		must.OK(t, a.Grant(ctx, profile, "vdb", files))
		wantList(made + vdb)
	}
	if n := calls(); n != 1 {
		t.Errorf("the parser was called %d times: once was enough", n)
	}
	must.OK(t, a.Grant(ctx, profile, "vdc", files[1:]))
	wantList(made + vdb + vdc)
	if info, err := os.Stat(list); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	// A profile that the kernel rejects, and a path that it would read as a pattern,
	// change nothing.
	script("echo syntax error; exit 1")
	if err := a.Grant(ctx, profile, "vdd", files); !errors.Is(err, ErrAppArmor) || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("got %v", err)
	}
	script("exit 0")
	if err := a.Grant(ctx, profile, "vdd", []File{{Path: "/srv/{a,b}"}}); !errors.Is(err, ErrAppArmor) {
		t.Errorf("got %v", err)
	}
	wantList(made + vdb + vdc)
	changed, err := a.Revoke(ctx, profile, func(target string) bool { return target == "vdb" })
	if err != nil || !changed {
		t.Errorf("got %v, %v", changed, err)
	}
	wantList(made + vdc)
	if _, err := a.Revoke(ctx, profile, func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	wantList(made)
	// Profiles that libvirt has not made are not changed.
	n := calls()
	for _, other := range []string{"", "unconfined", "../../etc/passwd", "libvirt-00000000-0000-0000-0000-000000000000"} {
		if err := a.Grant(ctx, other, "vdb", files); err != nil {
			t.Errorf("%s: %v", other, err)
		}
	}
	if calls() != n {
		t.Error("the parser was called")
	}
}
