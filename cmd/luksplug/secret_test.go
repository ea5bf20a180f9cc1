package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

func TestUsesOf(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: id}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "/x.img"}
	dir := t.TempDir()
	image, link := filepath.Join(dir, "image"), filepath.Join(dir, "link")
	must.OK(t, os.WriteFile(image, nil, 0o600), os.Symlink(image, link))
	uses := []hotplug.Use{
		{Target: "link", Payload: image},
		{Target: "uuid", Payload: "/a", Secrets: []secrets.Reference{byUUID}},
		{Target: "usage", Payload: "/b", Secrets: []secrets.Reference{byUsage}},
		{Target: "payload", Payload: "/x.img"},
		{Target: "header", Payload: "/c", Header: "/x.img"},
		{Target: "other", Payload: "/d", Secrets: []secrets.Reference{{Type: secrets.Passphrase, UUID: uuid.New()}, {Type: secrets.Ceph, Usage: "/x.img"}}},
	}
	for _, c := range []struct {
		d    secrets.Document
		want string
	}{
		{secrets.Document{UUID: id, UsageType: secrets.UsageVolume, Usage: "/x.img"}, "uuid usage payload header"},
		{secrets.Document{UUID: id}, "uuid"},
		{secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/x.img"}, "usage payload header"},
		{secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageTLS, Usage: "/x.img"}, ""},
		{secrets.Document{UUID: id, UsageType: secrets.UsageTLS, Usage: "n"}, ""}, // which cannot have unlocked it
		{secrets.Document{UsageType: secrets.UsageVolume, Usage: link}, "link"},
		{secrets.Document{UsageType: secrets.UsageCeph, Usage: "/x.img"}, "other"},
	} {
		var got []string
		for _, u := range usesOf(c.d, uses) {
			got = append(got, u.Target)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, want %s", c.d, got, c.want)
		}
	}
}

// secretRun runs the program in this process, with these disks on the host.
func secretRun(uses func() ([]hotplug.Use, error), args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := &app{streams: streams{in: strings.NewReader(""), out: &out, err: &errs}, uses: uses}
	code = run(context.Background(), a, args)
	return code, out.String(), errs.String()
}

func TestUndefineInUse(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := secrets.Document{UUID: uuid.New()}
	store := dir.New(path)
	if err := store.Define(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	args := []string{"--keystore", store.String(), "secret", "undefine", d.UUID.String()}
	inUse := func() ([]hotplug.Use, error) {
		return []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: "/x.img", Secrets: []secrets.Reference{d.Reference()}}}, nil
	}
	unknown := func() ([]hotplug.Use, error) { return nil, errors.New("no such luck") }

	if code, out, errs := secretRun(inUse, args...); code != exitRefused || out != "" || !strings.Contains(errs, "disk vdb of VM vm1 (/x.img)") || !strings.Contains(errs, "--force") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	if code, out, errs := secretRun(unknown, args...); code != exitFailed || out != "" || !strings.Contains(errs, "no such luck") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	if left, err := store.List(t.Context()); err != nil || len(left) != 1 {
		t.Fatalf("%+v, %v", left, err)
	}
	if code, _, errs := secretRun(inUse, append(args, "--force")...); code != exitDone || !strings.Contains(errs, "disk vdb of VM vm1") {
		t.Errorf("exit code %d, %q", code, errs)
	}
	if left, err := store.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

// readOnly is a store that can neither list nor change secrets.
type readOnly struct{ value string }

func (readOnly) String() string { return "test:" }

func (s readOnly) Lookup(_ context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if ref.Usage == "known" {
		return secrets.New([]byte(s.value)), nil
	}
	return nil, &secrets.StoreError{Store: s.String(), Ref: ref, Err: secrets.ErrNotFound}
}

func TestReadOnlyStores(t *testing.T) {
	t.Parallel()
	ctx, keeper := t.Context(), dir.New(t.TempDir())
	stores := []secrets.Store{readOnly{"value"}, keeper}
	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/x"}
	if k, err := define(ctx, stores, d); err != nil || k != secrets.Keeper(keeper) {
		t.Errorf("defined in %v, %v", k, err)
	}
	if f, err := locate(ctx, stores, d.UUID.String()); err != nil || f.store != secrets.Store(keeper) {
		t.Errorf("found in %v, %v", f.store, err)
	}
	if _, err := define(ctx, stores[:1], d); err == nil || !strings.Contains(err.Error(), "none of these key stores can be changed") {
		t.Error(err)
	}
	to := secrets.Destination{Name: "a test", Node: secrets.ThisNode, Medium: secrets.Memory}
	value, _, err := lookUp(ctx, stores, "volume:known", to)
	if err != nil || value.Len() != len("value") {
		t.Errorf("%v, %v", value, err)
	}
	if _, _, err := lookUp(ctx, stores, "volume:unknown", to); !errors.Is(err, secrets.ErrNotFound) {
		t.Error(err)
	}
	if _, err := (found{stores[0], d}).keeper(); err == nil || !strings.Contains(err.Error(), "can only be read") {
		t.Error(err)
	}
	told := 0
	if all, err := listAll(ctx, stores, func(secrets.Store) { told++ }); err != nil || len(all) != 1 || told != 1 {
		t.Errorf("%+v, %v, told %d times", all, err, told)
	}
}

// An ephemeral secret goes to the first store that is in memory.
func TestEphemeralPlace(t *testing.T) {
	t.Parallel()
	memory, err := os.MkdirTemp("/dev/shm", "luksplug-place")
	if err != nil {
		t.Skipf("no directory in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	disk := t.TempDir()
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "state: " + filepath.Join(disk, "state") + "\nephemeral: " + filepath.Join(memory, "secrets") + "\n"
	document := filepath.Join(disk, "secret.xml")
	if err := errors.Join(
		os.WriteFile(config, []byte(text), 0o600),
		os.WriteFile(document, []byte("<secret ephemeral='yes'><uuid>0a81f5b2-8403-4b23-88d6-21ccc2f80d6f</uuid></secret>"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	none := func() ([]hotplug.Use, error) { return nil, nil }
	code, out, errs := secretRun(none, "--config", config, "secret", "define", document)
	if code != exitDone || !strings.Contains(out, "defined in dir:"+memory) {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	if left, err := os.ReadDir(filepath.Join(disk, "state")); len(left) != 0 {
		t.Errorf("written to a disk: %v, %v", left, err)
	}
}

func TestDefaultDirectories(t *testing.T) {
	t.Parallel()
	env := func(values map[string]string) func(string) string {
		return func(name string) string { return values[name] }
	}
	for _, c := range []struct {
		uid                   int
		env                   map[string]string
		state, ephemeral, err string
	}{
		{0, map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/root", "XDG_RUNTIME_DIR": "/r"}, "/var/lib/luksplug/secrets", "/run/luksplug/secrets", ""},
		{7, map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/h", "XDG_RUNTIME_DIR": "/r"}, "/x/luksplug/secrets", "/r/luksplug/secrets", ""},
		{7, map[string]string{"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/luksplug/secrets", "/run/user/7/luksplug/secrets", ""},
		{7, nil, "", "/run/user/7/luksplug/secrets", "set HOME"},
	} {
		state, err := stateDir(c.uid, env(c.env))
		if state != c.state || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %s, %v", c, state, err)
		}
		if got := ephemeralDir(c.uid, env(c.env)); got != c.ephemeral {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestEmptyConfiguration(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n", "keystores: []\n"} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, found, err := readConfig(path); err != nil || !found || len(c.Keystores) != 0 {
			t.Errorf("%q: %+v, %t, %v", text, c, found, err)
		}
	}
}

// TestPruneUsage: a wrong command line of secret prune is refused before any key is looked at.
func TestPruneUsage(t *testing.T) {
	t.Parallel()
	none := func() ([]hotplug.Use, error) { return nil, nil }
	for says, args := range map[string][]string{
		"--vm UUID":    {"--force"},
		"--older-than": {"--older-than", "-1h"},
		"--vm: ":       {"--vm", "vm1"},
	} {
		code, out, errs := secretRun(none, append([]string{"secret", "prune"}, args...)...)
		if code != exitUsage || out != "" || !strings.Contains(errs, says) {
			t.Errorf("%v: exit code %d, %q, %q", args, code, out, errs)
		}
	}
}

// TestPruneChooses: keys are destroyed of VMs that are gone, or that are named, or that have
// been away for long enough, and of no others.
func TestPruneChooses(t *testing.T) {
	t.Parallel()
	const id = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
	old := time.Now().Add(-2 * time.Hour)
	vm := func(state hook.KeysState, put time.Time) hook.VMKeys {
		return hook.VMKeys{VM: vmkeys.VM{UUID: id, Put: put}, State: state}
	}
	long := pruneOptions{olderThan: time.Hour}
	for _, c := range []struct {
		o    pruneOptions
		vm   hook.VMKeys
		want bool
	}{
		{pruneOptions{}, vm(hook.KeysGone, time.Now()), true},
		{pruneOptions{}, vm(hook.KeysExpected, old), false},
		{pruneOptions{}, vm(hook.KeysSaved, old), false},
		{pruneOptions{}, vm(hook.KeysDefined, old), false},
		{long, vm(hook.KeysExpected, old), true},
		{long, vm(hook.KeysSaved, old), true},
		{long, vm(hook.KeysSaved, time.Now()), false},
		{long, vm(hook.KeysDefined, old), false},
		{long, vm(hook.KeysRunning, old), false},
		{pruneOptions{vm: id}, vm(hook.KeysExpected, time.Now()), true},
		{pruneOptions{vm: uuid.NewString()}, vm(hook.KeysGone, old), false},
	} {
		if got := c.o.chooses(c.vm); got != c.want {
			t.Errorf("%+v, %s put at %s: %t", c.o, c.vm.State, c.vm.Put, got)
		}
	}
	defined := []hook.VMKeys{vm(hook.KeysDefined, old)}
	var refused *hotplug.PreflightError
	if err := checkPruned(defined, pruneOptions{vm: id}); !errors.As(err, &refused) {
		t.Errorf("a defined VM: %v", err)
	}
	if err := checkPruned(defined, pruneOptions{vm: id, force: true}); err != nil {
		t.Errorf("by force: %v", err)
	}
	if err := checkPruned(defined, pruneOptions{vm: uuid.NewString()}); err == nil || errors.As(err, &refused) {
		t.Errorf("a VM without keys: %v", err)
	}
}
