package peer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
)

// NFSServer is an NFS-Ganesha that exports a directory to all clients, under the directory's own path and
// with any user id that they claim. It runs in a network namespace of its own, as QEMU always queries the
// portmapper on port 111.
type NFSServer struct {
	*Server // without a port
	Files   string
}

// StartNFS starts an NFS server for a test. The first call fetches Ganesha. The test is skipped without
// namespaces, or if the file system of the directory has no file handles.
func StartNFS(t testing.TB, directory string) *NFSServer {
	t.Helper()
	needRoot(t, "an NFS server")
	if _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, directory, 0); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("the NFS server cannot export %s: its file system has no file handles (name_to_handle_at)", directory)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if _, err := Output(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "true"); err != nil {
		t.Skipf("an NFS server needs a network of its own: %v", err)
	}
	root, err := runScript(ctx, "nfs.sh")
	if err != nil {
		t.Fatalf("fetch an NFS server: %v", err)
	}
	dir := shortDir(t, "nfs")
	n := &NFSServer{Server: &Server{Dir: dir, Log: filepath.Join(dir, "nfs.log")}, Files: directory}
	n.configure(t)
	starting, cancelStart := context.WithTimeout(ctx, serverStart)
	defer cancelStart()
	n.started(t, "nfs", n.start(starting, n.command(root), func() bool {
		return strings.Contains(tail(n.Log, 4000), "NFS SERVER INITIALIZED")
	}))
	return n
}

// configure writes Ganesha's configuration, and a list of users that includes the portmapper's.
func (n *NFSServer) configure(t testing.TB) {
	t.Helper()
	users, err := os.ReadFile("/etc/passwd")
	must.OK(t, err)
	users = append(users, "_rpc:x:64056:65534::/nonexistent:/usr/sbin/nologin\n"...)
	etc := filepath.Join(n.Dir, "etc")
	must.OK(t, errors.Join(os.Mkdir(etc, 0o755), os.Chmod(n.Dir, 0o755), // mounted over /etc, it determines the mode of /etc
		os.WriteFile(filepath.Join(etc, "passwd"), users, 0o644),
		os.WriteFile(filepath.Join(n.Dir, "ganesha.conf"), []byte(strings.ReplaceAll(nfsConfig, "@dir@", n.Files)), 0o644)))
}

// nfsConfig has NFS 3, the default version of libnfs, which QEMU does not change, without its protocol of
// locks; and NFS 4 for the kernel's client, where the files are at /files, and at /squashed with root mapped
// to another user.
const nfsConfig = `NFS_CORE_PARAM { Protocols = 3, 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSV4 { RecoveryBackend = fs; Graceless = true; UseGetpwnam = true; Only_Numeric_Owners = true; }
EXPORT { Export_Id = 1; Path = "@dir@"; Pseudo = /files; Protocols = 3, 4; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Attr_Expiration_Time = 0; FSAL { Name = VFS; } }
EXPORT { Export_Id = 2; Path = "@dir@"; Pseudo = /squashed; Protocols = 4; Access_Type = RW; Squash = Root_Squash; SecType = sys; Attr_Expiration_Time = 0; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`

// nfsNamespace prepares new namespaces, and runs the server and the portmapper: $1 is the unpacked server, $2
// the directory of its files. The shell is the namespace's first process, so all end with it.
const nfsNamespace = `set -e
mount --make-rprivate /
mount -t overlay -o "lowerdir=$1/usr:/usr" nfs /usr
mount -t overlay -o "lowerdir=$2/etc:$1/etc:/etc" nfs /etc
mount -t tmpfs -o mode=755 nfs /run
mkdir -p /run/rpcbind /run/ganesha
ip link set lo up
rpcbind -w -f &
until grep -q ':006F [0-9A-F:]* 0A' /proc/net/tcp; do sleep 0.02; done # listens on port 111
ganesha.nfsd -F -L /dev/stdout -f "$2/ganesha.conf" -p /run/ganesha/pid &
wait $!
`

func (n *NFSServer) command(root string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", nfsNamespace, "sh", root, n.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
	return cmd
}

// Through returns the arguments that start a program in the server's network, for Options.Through. The
// network exists as long as it has a process.
func (n *NFSServer) Through() []string {
	return []string{"nsenter", "--target", strconv.Itoa(n.process.pid()), "--net", "--"}
}

// HostXML returns the <host> of a disk's <source>.
func (n *NFSServer) HostXML() string { return "<host name='127.0.0.1'/>" }

// SourceXML returns the <source> of a file. inner follows its <host>.
func (n *NFSServer) SourceXML(path, inner string) string {
	return "<source protocol='nfs' name='" + path + "'>" + n.HostXML() + inner + "</source>"
}
