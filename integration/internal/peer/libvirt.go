package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
)

// Libvirt is a private libvirtd. Its mount namespace has libvirt's programs as scripts/libvirt.sh unpacked
// them, and empty directories for libvirt: a libvirt of the machine is not touched. Its process namespace
// ends its QEMUs with it; process ids inside differ from those outside. It has its own host name and host
// UUID, so that domains can move between two of them.
type Libvirt struct {
	URI    string // for virsh, or for luksplug's --connect
	Socket string // unix socket of libvirtd's RPC, reachable from everywhere
	Dir    string // holds libvirt's directories: run, etc, lib, cache, log
	Log    string // libvirtd's standard error

	user    string // of the QEMUs, "" for root
	process *process
	root    string // of the unpacked libvirt
}

// LibvirtOptions describe a libvirtd. The zero value listens on its unix socket only.
type LibvirtOptions struct {
	// User runs the QEMUs, with the group of the same name; "" is root.
	User string
	// Hook is the text of an executable in hooks/qemu.d, which libvirtd looks for only at its start. With a
	// hook, luksplug's directories in /run, /etc, /var/lib and /var/log are private to the namespace.
	Hook string
	// Configuration is the text of luksplug's configuration in the namespace.
	Configuration string
	Config        []string // lines for libvirtd.conf
	Listen        bool     // on TCP as well, where Config says
}

// Libvirtd starts a private libvirtd for a test and ends it, with its domains, when the test ends. Without
// root, which a mount namespace needs, the test is skipped.
func Libvirtd(t testing.TB) *Libvirt {
	t.Helper()
	return LibvirtdWith(t, LibvirtOptions{})
}

// LibvirtdWith is Libvirtd with other settings.
func LibvirtdWith(t testing.TB, o LibvirtOptions) *Libvirt {
	t.Helper()
	needRoot(t, "a private libvirtd")
	dir := shortDir(t, "libvirt")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	l, err := RunLibvirtd(ctx, dir, o)
	must.OK(t, err)
	atEnd(t, l.Close, l.Log)
	return l
}

// RunLibvirtd starts a private libvirtd with all its state in dir and returns when it answers. The caller
// closes the result. ctx bounds the start only.
func RunLibvirtd(ctx context.Context, dir string, o LibvirtOptions) (_ *Libvirt, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start libvirtd: %w", err)
		}
	}()
	root, err := runScript(ctx, "libvirt.sh")
	if err != nil {
		return nil, fmt.Errorf("%w (make setup unpacks libvirt)", err)
	}
	l := &Libvirt{Dir: dir, Socket: filepath.Join(dir, "run", "libvirt-sock"), Log: filepath.Join(dir, "libvirtd.log"), root: root, user: o.User}
	l.URI = "qemu+unix:///system?socket=" + l.Socket
	if o.User != "" { // QEMU's sockets are in here
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := l.writeConfig(o); err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", libvirtNamespace, "sh", root, dir)
	if o.Listen {
		cmd.Args = append(cmd.Args, "--listen")
	}
	cmd.Env = append(os.Environ(), "LUKSPLUG_QEMU_USER="+o.User)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS}
	if l.process, err = startTied(cmd, l.Log); err != nil {
		return nil, err
	}
	if err := l.waitReady(ctx); err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %s", err, tail(l.Log, 2000))
	}
	return l, nil
}

// libvirtNamespace prepares a new mount namespace and runs libvirtd: $1 is the unpacked libvirt, $2 the
// directory of its state, the rest are further arguments. Overlays make the mount points that the machine
// lacks.
//
// The shell stays as the first process, which reaps QEMU: the parent of QEMU ends early, and libvirtd would
// not reap it.
const libvirtNamespace = `set -e
mount --make-rprivate /
mount -t proc proc /proc
# Domains move between hosts only that have other names.
echo "${2##*/}" > /proc/sys/kernel/hostname
mount -t overlay -o "lowerdir=$1/usr:/usr" libvirt /usr
# libvirt's package would make this user, and libvirtd looks for it even where it is configured to use another.
mkdir -p "$2/places/etc"
for file in passwd group; do cp "/etc/$file" "$2/places/etc/"; done
grep -q ^libvirt-qemu: /etc/passwd || echo libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin >> "$2/places/etc/passwd"
grep -q ^libvirt-qemu: /etc/group || echo libvirt-qemu:x:64055: >> "$2/places/etc/group"
mkdir -p "$2/places/run/luksplug" "$2/places/run/sshd"
# Where /run is in memory, luksplug hands files over in here. QEMU writes to them, and an overlay without an upper
# directory is read-only.
mkdir -p -m 711 /run/luksplug
mount --bind /run/luksplug "$2/places/run/luksplug"
for dir in etc var/lib var/log; do mkdir -p "$2/places/$dir/luksplug"; done
for dir in run etc var/lib var/cache var/log; do
	mkdir -p "$2/places/$dir/libvirt"
	mount -t overlay -o "lowerdir=$2/places/$dir:/$dir" libvirt "/$dir"
	mount --bind "$2/${dir##*/}" "/$dir/libvirt"
done
# libvirtd asks QEMU anew at every turn what it can do where root may use KVM and QEMU's user may not.
if [ -n "$LUKSPLUG_QEMU_USER" ] && [ -e /dev/kvm ]; then
	(umask 077; : > "$2/places/no-kvm")
	mount --bind "$2/places/no-kvm" /dev/kvm
fi
# For who runs luksplug in here, where these cannot be written.
if [ -d "$2/luksplug" ]; then # a host of its own
	mount -t tmpfs -o mode=755 luksplug /run/luksplug
	for dir in etc var/lib var/log; do mount --bind "$2/luksplug/$dir" "/$dir/luksplug"; done
else
	mount --bind "$2/places/run/luksplug" /run/luksplug
fi
restart=$2/restart
shift 2
virtlogd --pid-file /run/libvirt/virtlogd.pid & # it keeps QEMU's output while libvirtd is away
while :; do
	libvirtd --pid-file /run/libvirt/libvirtd.pid "$@" &
	wait $! || :
	[ -e "$restart" ] || break
	rm "$restart"
done
`

// writeConfig makes libvirt's directories and its configuration.
func (l *Libvirt) writeConfig(o LibvirtOptions) error {
	dirs := []string{"run", "etc/hooks/qemu.d", "lib", "cache", "log"}
	if o.Hook != "" {
		dirs = append(dirs, "luksplug/etc", "luksplug/var/lib", "luksplug/var/log")
	}
	for _, name := range dirs {
		if err := os.MkdirAll(filepath.Join(l.Dir, name), 0o755); err != nil {
			return err
		}
	}
	user := cmp.Or(o.User, "root")
	qemu := `user = "` + user + `"
group = "` + user + `"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "logd"
`
	var hook, configuration error
	if o.Hook != "" {
		hook = os.WriteFile(filepath.Join(l.Dir, "etc", "hooks", "qemu.d", "test"), []byte(o.Hook), 0o755)
	}
	if o.Configuration != "" {
		configuration = os.WriteFile(filepath.Join(l.Dir, "luksplug", "etc", "config.yaml"), []byte(o.Configuration), 0o644)
	}
	return errors.Join(hook, configuration,
		os.WriteFile(filepath.Join(l.Dir, "etc", "qemu.conf"), []byte(qemu), 0o644),
		os.WriteFile(filepath.Join(l.Dir, "etc", "libvirtd.conf"), []byte(strings.Join(append(o.Config, `host_uuid = "`+uuid.NewString()+`"`, ""), "\n")), 0o644))
}

// waitReady waits until libvirtd answers.
func (l *Libvirt) waitReady(ctx context.Context) error {
	err := waitFor(ctx, l.process, l.Socket, func() bool {
		conn, err := net.Dial("unix", l.Socket)
		if err == nil {
			_ = conn.Close() // a probe
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	_, err = l.Virsh(ctx, "version")
	return err
}

// Inside returns a command in the namespaces of this libvirtd, as if on its host: virsh is in PATH, and
// libvirt's QEMUs are in /proc.
func (l *Libvirt) Inside(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(l.process.pid()), "--mount", "--pid", "--", name}, args...)...)
}

// Root returns the directory of the unpacked libvirt, with its usr and etc.
func (l *Libvirt) Root() string { return l.root }

// VirshCommand returns virsh, connected to this libvirtd, ready to run.
func (l *Libvirt) VirshCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.root, "usr", "bin", "virsh"), append([]string{"--quiet", "--connect", l.URI}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LD_LIBRARY_PATH="+filepath.Join(l.root, "usr", "lib", "x86_64-linux-gnu"))
	return cmd
}

// Virsh runs virsh and returns its standard output. The error contains its standard error.
func (l *Libvirt) Virsh(ctx context.Context, args ...string) (string, error) {
	return run(l.VirshCommand(ctx, args...))
}

// Close ends libvirtd and its domains. It may be called again.
func (l *Libvirt) Close() { l.process.kill() }
