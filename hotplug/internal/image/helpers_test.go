package image_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

const passphrase = "test passphrase"

// need skips the test if a program is missing.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return must.Run(t, passphrase, name, args...)
}

// create makes an image of the size with qemu-img; options are those of -o, for
// encrypted ones without the key.
func create(t testing.TB, format, size string, options ...string) string {
	t.Helper()
	need(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "image."+format)
	args := []string{"create", "-q", "-f", format}
	switch {
	case format == "luks":
		args = append(args, "--object", "secret,id=s,file="+secretFile(t))
		options = append(options, "key-secret=s", "iter-time=10")
	case strings.Contains(strings.Join(options, ","), "encrypt.format"):
		args = append(args, "--object", "secret,id=s,file="+secretFile(t))
		options = append(options, "encrypt.key-secret=s")
	}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	run(t, "qemu-img", append(args, path, size)...)
	return path
}

func luksFormat(t testing.TB, version string, size int64) string {
	t.Helper()
	return must.LUKS(t, passphrase, size, "--type", version, "--pbkdf", "pbkdf2")
}

func secretFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must.OK(t, os.WriteFile(path, []byte(passphrase), 0o600))
	return path
}

// hold opens the image in a qemu-storage-daemon until the test ends.
func hold(t *testing.T, path, driver string, writable bool) {
	t.Helper()
	need(t, "qemu-storage-daemon")
	export := "type=nbd,id=e,node-name=n,writable=off"
	if writable {
		export = "type=nbd,id=e,node-name=n,writable=on"
	}
	complaint, ok := start(t, "qemu-storage-daemon",
		"--blockdev", blockdev(t, path, driver, writable),
		"--nbd-server", "addr.type=unix,addr.path="+filepath.Join(t.TempDir(), "s"),
		"--export", export,
		"--chardev", "stdio,id=c", "--monitor", "c")
	if !ok {
		t.Fatal(complaint)
	}
}

// blockdev returns the option that opens the image as node n.
func blockdev(t *testing.T, path, driver string, writable bool) string {
	t.Helper()
	option, err := json.Marshal(map[string]any{
		"driver": driver, "node-name": "n", "read-only": !writable,
		"file": map[string]any{"driver": "file", "filename": path},
	})
	must.OK(t, err)
	return string(option)
}

// start starts a QEMU program with a monitor on standard input and output, and ends it
// with the test. The monitor may greet before all options are processed, but answers only
// after that; if one of them fails, QEMU prints an error instead.
func start(t *testing.T, name string, args ...string) (complaint string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	// Its standard input stays open until it is to end.
	stdin, err := cmd.StdinPipe()
	must.OK(t, err)
	stdout, err := cmd.StdoutPipe()
	must.OK(t, err)
	must.OK(t, cmd.Start())
	end := func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what we want
	}
	// A program that has ended already sends nothing.
	_, _ = io.WriteString(stdin, `{"execute":"qmp_capabilities"}`+"\n")
	monitor := bufio.NewReader(stdout)
	for range 2 { // the greeting and the answer
		if _, err := monitor.ReadString('\n'); err != nil {
			end()
			return complaints.String(), false
		}
	}
	t.Cleanup(end)
	return "", true
}

// dataFile returns the data file that a qcow2 image names, "" for none.
func dataFile(path string) string {
	info, err := image.Probe(path)
	if err != nil || info.Qcow2 == nil {
		return ""
	}
	for _, ref := range info.Qcow2.References() {
		if ref.Role == image.Data {
			file, _ := ref.Path(path)
			return file
		}
	}
	return ""
}

// prefix returns the first n bytes that a guest sees, fewer if the disk is smaller.
func prefix(path string, format image.Format, n int) ([]byte, error) {
	g, err := image.OpenGuest(path, format, dataFile(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = g.Close() }()
	b := make([]byte, n)
	if n, err = g.ReadAt(b, 0); errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}
