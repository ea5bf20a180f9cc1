package keyring_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/luksplug/luksplug/internal/must"
)

// desktop is a private D-Bus with a gnome-keyring, with all files in a temporary
// directory.
type desktop struct {
	address string
	dir     string
	bus     *exec.Cmd
	daemon  *exec.Cmd
	conn    *dbus.Conn
}

// busConfig configures a session bus without service activation, so that it starts
// neither a second keyring nor a program that shows prompts.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

const password = "open sesame"

// newDesktop starts a desktop with an unlocked, empty keyring.
func newDesktop(t *testing.T) *desktop {
	t.Helper()
	must.Have(t, "dbus-daemon", "gnome-keyring-daemon")
	dir := must.Dir(t, "")
	d := &desktop{dir: dir, address: "unix:path=" + dir + "/bus"}
	config := filepath.Join(dir, "bus.conf")
	must.OK(t, os.WriteFile(config, fmt.Appendf(nil, busConfig, dir), 0o600), os.Mkdir(dir+"/run", 0o700))
	d.bus = d.start(t, nil, "dbus-daemon", "--nofork", "--config-file="+config)
	d.wait(t, "the bus", func() bool {
		conn, err := dbus.Connect(d.address)
		d.conn = conn
		return err == nil
	})
	t.Cleanup(func() { _ = d.conn.Close() }) // the bus may have ended
	d.startKeyring(t)
	return d
}

func (d *desktop) startKeyring(t *testing.T) {
	t.Helper()
	d.daemon = d.start(t, strings.NewReader(password), "gnome-keyring-daemon", "--unlock", "--components=secrets", "--foreground", "--control-directory="+d.dir+"/run")
	d.wait(t, "gnome-keyring", func() bool {
		var path dbus.ObjectPath
		err := d.conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").Call("org.freedesktop.Secret.Service.ReadAlias", 0, "default").Store(&path)
		return err == nil && path != "/"
	})
}

// start starts a program that ends with the test.
func (d *desktop) start(t *testing.T, stdin *strings.Reader, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+d.dir, "XDG_DATA_HOME="+d.dir+"/data", "XDG_CACHE_HOME="+d.dir+"/cache", "XDG_CONFIG_HOME="+d.dir+"/config",
		"XDG_RUNTIME_DIR="+d.dir+"/run", "DBUS_SESSION_BUS_ADDRESS="+d.address, "DISPLAY=", "WAYLAND_DISPLAY=")
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &messages, &messages
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.OK(t, cmd.Start())
	t.Cleanup(func() {
		end(cmd)
		if t.Failed() {
			t.Logf("%s: %s", name, &messages)
		}
	})
	return cmd
}

// end kills a program, once.
func end(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports that it was killed
	}
}

// wait polls until ready returns true: without a bus there are no events to wait for.
func (d *desktop) wait(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ready() {
		if ctx.Err() != nil {
			t.Fatalf("%s has not come up", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const login = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")

// lock locks the keyring.
func (d *desktop) lock(t *testing.T) {
	t.Helper()
	var locked []dbus.ObjectPath
	var prompt dbus.ObjectPath
	must.OK(t, d.conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").
		Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{login}).Store(&locked, &prompt))
	if len(locked) != 1 {
		t.Fatal("the keyring was not locked")
	}
}
