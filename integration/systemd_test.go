package integration

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// unit is the service of docs/keystores.md, run as systemd.service(5) says.
type unit struct {
	text string // with the names of this test
	env  []string
}

// command returns the command of a setting. With + it runs as root, otherwise as the first user.
func (u unit) command(ctx context.Context, t *testing.T, setting string) *exec.Cmd {
	t.Helper()
	_, rest, found := strings.Cut(u.text, "\n"+setting+"=")
	if !found {
		t.Fatalf("the unit has no %s", setting)
	}
	line, _, _ := strings.Cut(rest, "\n")
	words, asRoot := strings.CutPrefix(strings.ReplaceAll(line, "$$", "$"), "+")
	args := []string{"sh", "-c", "exec " + words}
	if !asRoot {
		id := strconv.Itoa(firstUser)
		args = append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), u.env...), "/"
	return cmd
}

// TestSystemdUnit runs the commands of the documented unit, with a private secret of an age: store: QEMU opens the
// disk, its user alone can read the exported file, and the file is gone when QEMU has started, and after it has not.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	if os.Geteuid() != 0 {
		t.Skip("systemd's commands run as root and as another user")
	}
	base, runtime := shortDir(t, ""), shortDir(t, inMemoryDir)
	must.OK(t, os.Chmod(base, 0o755), os.Chown(runtime, firstUser, firstUser), os.Chmod(runtime, 0o700))
	program, config, disk := filepath.Join(base, "luksplug"), filepath.Join(base, "config.yaml"), filepath.Join(base, "disk.xml")
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	open := readableByAll(t, v.Payload)
	must.OK(t, os.WriteFile(program, must.Get(os.ReadFile(luksplug))(t), 0o755), os.Chmod(program, 0o755),
		os.WriteFile(config, []byte("keystores: ['age:"+filepath.Join(base, "keys")+"']\n"), 0o644),
		os.WriteFile(disk, []byte(edited(t, v.DiskXML("vdb", "virtio"), v.Payload, open)), 0o644))
	u := unit{env: []string{"LUKSPLUG_CONFIG=" + config}, text: strings.NewReplacer("/usr/local/bin/luksplug", program, "/etc/luksplug/vm1-vdb.xml", disk,
		"/run/vm1", runtime, "--owner vm1", "--owner "+strconv.Itoa(firstUser), "User=vm1", "User=daemon", "5f3c1c3e-6e1c-4c60-8a53-1d2a9d5b7c11", v.SecretUUID).Replace(documentedUnit(t, "vm1.service"))}
	verifyUnit(ctx, t, u.text)
	for _, args := range [][]string{{"define", writeFile(t, "secret.xml", string(withUUID(t, v, secrets.Document{Private: true}).XML()))}, {"set-value", v.SecretUUID, "--file", v.PassphraseFile}} {
		cmd := exec.CommandContext(ctx, luksplug, append([]string{"secret"}, args...)...)
		cmd.Env = append(os.Environ(), u.env...)
		run(ctx, t, cmd).want(t, 0)
	}
	key := filepath.Join(runtime, "vdb.key")
	exported := func(want bool) {
		t.Helper()
		info, err := os.Lstat(key)
		switch {
		case !want && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("the exported file: %v", err)
		case want && err != nil:
			t.Fatal(err)
		case want && (info.Mode() != 0o400 || info.Sys().(*syscall.Stat_t).Uid != firstUser || info.Size() != int64(len(v.Passphrase))):
			t.Errorf("the exported file: %v, %+v", info.Mode(), info.Sys())
		}
	}
	start := func(code int) result {
		t.Helper()
		run(ctx, t, u.command(ctx, t, "ExecStartPre")).want(t, 0)
		exported(true)
		return run(ctx, t, u.command(ctx, t, "ExecStart")).want(t, code)
	}
	start(0)
	t.Cleanup(func() { endOfPIDFile(t, filepath.Join(runtime, "qemu.pid")) })
	run(ctx, t, u.command(ctx, t, "ExecStartPost")).want(t, 0)
	exported(false)
	socket := filepath.Join(runtime, "qmp.sock")
	run(ctx, t, exec.CommandContext(ctx, luksplug, "--qmp", socket, "list", "--all")).want(t, 0).wantStdout(t, "luksplug-vdb-luks")

	// A header that QEMU does not open: QEMU is not started without the disk.
	overwrite(t, open, 0, []byte("LUKS\xba\xbe\x00\x07"))
	if got := start(5); !strings.Contains(got.stderr, "the LUKS header in "+open) {
		t.Error(got.stderr)
	}
	run(ctx, t, u.command(ctx, t, "ExecStopPost")).want(t, 0)
	exported(false)
}

// withUUID returns the document of the volume's secret.
func withUUID(t *testing.T, v *peer.Volume, d secrets.Document) secrets.Document {
	t.Helper()
	d.UUID = must.Get(secrets.ParseUUID(v.SecretUUID))(t)
	return d
}

// documentedUnit returns a unit of the documents.
func documentedUnit(t *testing.T, name string) string {
	t.Helper()
	text := string(must.Get(os.ReadFile(filepath.Join(repository, "docs", "keystores.md")))(t))
	for _, b := range blocks(strings.Split(text, "\n")) {
		if b.name == name {
			return strings.Join(b.lines, "\n") + "\n"
		}
	}
	t.Fatalf("the documents have no %s", name)
	return ""
}

// verifyUnit has systemd check the syntax of a unit, if it is installed.
func verifyUnit(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return
	}
	got := run(ctx, t, exec.CommandContext(ctx, "systemd-analyze", "verify", "--man=no", writeFile(t, "vm1.service", text)))
	if got.code != 0 || strings.Contains(got.stderr, "vm1.service") {
		t.Errorf("systemd-analyze: exit code %d: %s", got.code, got.stderr)
	}
}

// endOfPIDFile ends the process that a file names, which must be a QEMU.
func endOfPIDFile(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return // it has not started
	}
	pid := must.Get(strconv.Atoi(strings.TrimSpace(string(text))))(t)
	if args := string(must.Get(os.ReadFile(filepath.Join(procDir(pid), "cmdline")))(t)); !strings.Contains(args, path) {
		t.Fatalf("process %d is not the test's QEMU", pid)
	}
	must.OK(t, syscall.Kill(pid, syscall.SIGKILL))
}
