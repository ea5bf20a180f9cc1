package peer

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// ISCSITarget is a target of tgt, the Linux SCSI target in user space. Its units are files.
type ISCSITarget struct {
	*Server
	Name     string // of the target
	User     string // for CHAP
	Password string
}

// controlPort selects tgtd for tgtadm. It names a socket in /run, and each daemon has its own /run.
const controlPort = "7"

// StartISCSI starts an iSCSI server for a test, with one target whose unit 1 is the first file and so on, and
// which demands CHAP (RFC 7143, section 12.1.3).
func StartISCSI(t testing.TB, files ...string) *ISCSITarget {
	t.Helper()
	needRoot(t, "tgt")
	s := startServer(t, "tgt", func(_ string, port int) *exec.Cmd {
		return ownRun(`mkdir /run/tgtd; exec tgtd -f --iscsi "portal=127.0.0.1:$1" --control-port "$2"`, strconv.Itoa(port), controlPort)
	})
	// A secret of CHAP has at least 12 bytes (RFC 7143, section 9.2.1).
	target := &ISCSITarget{Server: s, Name: "iqn.2026-01.example:disks", User: "vm1", Password: randomText("chap-")}
	commands := [][]string{{"--mode", "target", "--op", "new", "--targetname", target.Name}}
	for i, file := range files {
		commands = append(commands, []string{"--mode", "logicalunit", "--op", "new", "--lun", strconv.Itoa(i + 1), "--backing-store", file})
	}
	commands = append(commands,
		[]string{"--mode", "target", "--op", "bind", "--initiator-address", "ALL"},
		[]string{"--mode", "account", "--op", "new", "--user", target.User, "--password", target.Password},
		[]string{"--mode", "account", "--op", "bind", "--user", target.User})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range commands {
		must.OK(t, target.tgtadm(ctx, args...))
	}
	return target
}

// tgtadm configures the target of the server.
func (s *ISCSITarget) tgtadm(ctx context.Context, args ...string) error {
	line := []string{"--target", strconv.Itoa(s.process.pid()), "--mount", "--", "tgtadm", "--control-port", controlPort, "--lld", "iscsi"}
	if args[1] != "account" || args[3] != "new" {
		line = append(line, "--tid", "1")
	}
	_, err := Output(ctx, "nsenter", append(line, args...)...)
	return err
}

// SourceXML returns the <source> of a unit. inner follows its <host>.
func (s *ISCSITarget) SourceXML(lun int, inner string) string {
	return fmt.Sprintf("<source protocol='iscsi' name='%s/%d'>%s%s</source>", s.Name, lun, s.HostXML(), inner)
}
