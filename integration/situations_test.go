package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// situation is something that users get wrong, or that fails without luksplug's doing, and what the program has to say
// about it: one line on standard error that names the object and what to do.
type situation struct {
	name string
	args []string
	code int
	says []string // the object, what happened to it, and what to do
}

// jargon are words of Go, of its libraries and of system calls that tell users nothing.
var jargon = regexp.MustCompile(`context (deadline exceeded|canceled)|\bEOF\b|\bnil\b|i/o timeout|dial (unix|tcp)|: connect: |unmarshal|strconv\.|invalid character|` +
	`invalid argument$|: invalid argument: |unknown error|looking for beginning of value|JSON input|%!|\bpanic\b|goroutine|outcome of|luksplug: luksplug`)

// wantSituation runs the program and compares what it says.
func wantSituation(ctx context.Context, t *testing.T, s situation, command func(args ...string) *exec.Cmd) {
	t.Helper()
	r := run(ctx, t, command(s.args...)).want(t, s.code)
	t.Logf("%s", r.stderr)
	lines := strings.SplitAfter(r.stderr, "\n")
	for len(lines) > 0 && strings.HasPrefix(lines[0], "luksplug: waiting for ") {
		lines = lines[1:]
	}
	r.stderr = strings.Join(lines, "")
	wantOneLine(t, r, s.says...)
	if found := jargon.FindString(r.stderr); found != "" {
		t.Errorf("it says %q: %s", found, r.stderr)
	}
	wantTexts(t, "the error in JSON", run(ctx, t, command(append([]string{"--output", "json"}, s.args...)...)).want(t, s.code).printed, []string{`"exit_code":` + strconv.Itoa(s.code)})
}

// portOf returns the address in a <host> element of this machine.
func portOf(host string) string {
	_, port, _ := strings.Cut(host, "port='")
	return "127.0.0.1:" + strings.TrimRight(port, "'/>")
}

// TestAddressesThatAreNoMonitor: --qmp with what is not the monitor of a running VM.
func TestAddressesThatAreNoMonitor(t *testing.T) {
	t.Parallel()
	at := t.TempDir()
	in := func(name string) string { return filepath.Join(at, name) }
	sockets := peer.Start(t, peer.Options{Paused: true}).Dir // a short path
	other := func(name string) string { return filepath.Join(sockets, name) }
	peer.Start(t, peer.Options{Paused: true, Extra: []string{
		"-chardev", "socket,id=human,path=" + other("human") + ",server=on,wait=off", "-mon", "chardev=human,mode=readline",
		"-chardev", "socket,id=agent,path=" + other("agent") + ",server=on,wait=off", "-device", "virtio-serial",
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0", "-vnc", "unix:" + other("vnc"),
	}})
	must.OK(t, os.WriteFile(in("file"), nil, 0o600))
	must.OK(t, os.Symlink("loop", in("loop")))
	must.OK(t, os.Symlink("nowhere", in("dangling")))
	must.OK(t, unix.Mkfifo(in("pipe"), 0o600))
	gone := peer.Start(t, peer.Options{Paused: true})
	must.OK(t, gone.Close()) // by SIGKILL
	busy := peer.Start(t, peer.Options{Paused: true})
	client := must.Get(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	t.Cleanup(func() { _ = unix.Close(client) })
	must.OK(t, unix.Connect(client, &unix.SockaddrUnix{Name: busy.Socket}))
	closed, silent := portOf(peer.ClosedPort(t)), portOf(peer.SilentPort(t))
	ssh, web := peer.StartSSH(t), peer.StartWeb(t, nil)
	const useMonitor = "name the socket that QEMU's option -qmp makes"
	for name, c := range map[string]struct {
		address string
		says    []string
	}{
		"a regular file":          {in("file"), []string{"a regular file and not a socket", useMonitor}},
		"a directory":             {at, []string{"a directory and not a socket", useMonitor}},
		"a loop of links":         {in("loop"), []string{"a loop of symbolic links", useMonitor}},
		"a link to nothing":       {in("dangling"), []string{"there is no such socket", "is the VM running"}},
		"a named pipe":            {in("pipe"), []string{"a named pipe and not a socket", useMonitor}},
		"a device":                {"/dev/null", []string{"a character device and not a socket", useMonitor}},
		"nothing":                 {in("missing"), []string{"there is no such socket", "is the VM running"}},
		"below a file":            {in("file/x"), []string{"there is no such socket", "is the VM running"}},
		"a path that is too long": {in(strings.Repeat("a", 120)), []string{"at most 107", "use a shorter one"}},
		"a VM that is gone":       {gone.Socket, []string{"the VM that made the socket is gone", "start the VM"}},
		"a busy monitor":          {busy.Socket, []string{"another client probably holds the monitor", "close that one", "second -qmp"}},
		"the human monitor":       {other("human"), []string{"as QEMU's human monitor does", useMonitor}},
		"a guest agent":           {other("agent"), []string{"(qemu-system-", "guest agent", useMonitor}},
		"VNC":                     {other("vnc"), []string{"as a VNC server does", useMonitor}},
		"an SSH server":           {ssh.Address(), []string{"as an SSH server does", useMonitor}},
		"a web server":            {web.Address(), []string{"says nothing", useMonitor}},
		"a port without listener": {closed, []string{"no process listens there", "is the VM running"}},
		"a silent port":           {silent, []string{"another client", "guest agent", useMonitor}},
		"a host without address":  {"nowhere.invalid:4444", []string{"cannot be resolved", "correct it"}},
		"no port":                 {"tcp:localhost", []string{"missing port in address", "write it like tcp:localhost:4444"}},
		"the name of a domain":    {"vm1", []string{"there is no such socket", "use --domain vm1 if vm1 is a libvirt domain"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t) // after the wait for its turn
			s := situation{args: []string{"--timeout", "2s", "--qmp", c.address, "list"}, code: 1, says: append(c.says, c.address)}
			wantSituation(ctx, t, s, func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, luksplug, args...) })
		})
	}
}

// TestSituationsOfAVM: what is wrong about a disk or a secret, on a running VM.
func TestSituationsOfAVM(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	v, second := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("sdb", "scsi"))...).want(t, 0)
	before := stateOf(ctx, t, q)
	disk := writeFile(t, "other.xml", second.DiskXML("sdc", "scsi"))
	taken := writeFile(t, "taken.xml", second.DiskXML("sdb", "scsi"))
	attach := func(source ...string) []string { return append(source, "attach", disk) }
	// A key store with a file of that name, in which the passphrase ends in those bytes.
	store := func(name, end string) string {
		dir := filepath.Join(t.TempDir(), "keys")
		must.OK(t, os.Mkdir(dir, 0o700))
		must.OK(t, os.WriteFile(filepath.Join(dir, name), []byte(string(second.Passphrase)+end), 0o600))
		return "dir:" + dir
	}
	id := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(second.DiskXML("sdc", "scsi"))
	for _, s := range []situation{
		{"a similar target", []string{"detach", "sdd"}, 5, []string{q.Socket, "no disk sdd", "it has sdb", "did you mean sdb?"}},
		{"no target", []string{"detach", "vdzz"}, 5, []string{q.Socket, "no disk vdzz", "it has sdb"}},
		{"a taken target", []string{"--passphrase-file", second.PassphraseFile, "attach", taken}, 5, []string{"another disk is attached as sdb", "detach it first", "a free target, such as sda (taken are sdb)"}},
		{"a secret in upper case", attach("--keystore", store(strings.ToUpper(id), "")), 4, []string{id, "but one named " + strings.ToUpper(id), "rename it to " + id}},
		{"a secret with an extension", attach("--keystore", store(id+".txt", "")), 4, []string{id, "but one named " + id + ".txt", "rename it to " + id}},
		{"no such secret", attach("--keystore", store("x", ""), "--keystore", store("y", "")), 4, []string{"no such secret", "dir:", "there is no file " + id}},
		{"a newline", attach("--keystore", store(id, "\n")), 4, []string{"sdc", id, "wrong passphrase", "ends in a newline", "write it without"}},
		{"a newline of Windows", attach("--keystore", store(id, "\r\n")), 4, []string{id, "wrong passphrase", "ends in a carriage return and a newline"}},
		{"a newline, in QEMU", append(attach("--keystore", store(id, "\n")), "--unlock", "qemu"), 4, []string{id, "Invalid password", "ends in a newline", "the VM is as it was before"}},
		{"a newline of a program", attach("--keystore", "exec:/bin/echo wrong"), 4, []string{id, "wrong passphrase", "ends in a newline"}},
		{"a newline of a file", attach("--passphrase-file", writeFile(t, "key", string(second.Passphrase)+"\n")), 4, []string{"wrong passphrase", "ends in a newline"}},
		{"no passphrase file", attach("--passphrase-file", "/nonexistent/key"), 4, []string{"/nonexistent/key", "no such file"}},
		{"no disk XML", []string{"attach", "/nonexistent/disk.xml"}, 2, []string{"/nonexistent/disk.xml", "no such file"}},
		{"no time", []string{"--timeout", "1us", "list"}, 1, []string{q.Socket, "the time limit of 1µs has passed", "use --timeout"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			wantSituation(ctx, t, s, func(args ...string) *exec.Cmd { return program(ctx, q.Socket, args...) })
			wantSame(ctx, t, q, before)
		})
	}
}

// TestInterruptedQuery: a query that QEMU does not answer ends by the time limit or a signal, and is reported as a query:
// nothing was changed, and nothing is to be looked up.
func TestInterruptedQuery(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	for name, c := range map[string]struct {
		limit string
		says  []string
	}{
		"by the time limit": {"1s", []string{"does not answer", "the time limit of 1s has passed", "use --timeout"}},
		"by the user":       {"1m", []string{"QEMU has not answered", ": interrupted"}},
	} {
		t.Run(name, func(t *testing.T) {
			asked, end := make(chan struct{}), make(chan struct{})
			ask := sync.OnceFunc(func() { close(asked) })
			proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
				if c.Name == "qom-list" {
					ask()
					<-end
				}
				return peer.Verdict{}
			}})
			t.Cleanup(func() { close(end) })
			b := start(ctx, t, proxy.Address, "--timeout", c.limit, "list")
			select {
			case <-asked:
			case <-b.ended:
			}
			if c.limit == "1m" {
				must.OK(t, b.cmd.Process.Signal(os.Interrupt))
			}
			r := b.end(ctx, t)
			if r.code != 1 {
				t.Errorf("exit code %d", r.code)
			}
			wantOneLine(t, r, c.says...)
			if found := jargon.FindString(r.stderr); found != "" || strings.Contains(r.stderr, "may or may not") {
				t.Errorf("it says %q: %s", found, r.stderr)
			}
		})
	}
}

// TestInterruptedDetach: a detach that is interrupted while the guest does not release the device says that it can be
// continued, and not what to do in the guest.
func TestInterruptedDetach(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 1}) // no operating system runs that would release the device
	v := peer.NewVolume(t, peer.DetachedRaw)
	tool(ctx, t, q.Socket, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...).want(t, 0)
	requested := make(chan struct{}, 100)
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if c.Name == "device_del" {
			requested <- struct{}{}
		}
		return peer.Verdict{}
	}})
	b := start(ctx, t, proxy.Address, "--timeout", "1m", "detach", "vdb")
	select {
	case <-requested:
	case <-b.ended:
		t.Fatalf("it has ended: %s", b.result(t).stderr)
	}
	time.Sleep(100 * time.Millisecond) // QEMU answers meanwhile
	must.OK(t, b.cmd.Process.Signal(os.Interrupt))
	r := b.end(ctx, t)
	if r.code != 8 {
		t.Errorf("exit code %d, want 8", r.code)
	}
	wantOneLine(t, r, "disk vdb", "interrupted", "luksplug-vdb", "run detach again")
	if strings.Contains(r.stderr, "unmount") || jargon.MatchString(r.stderr) {
		t.Errorf("it says %s", r.stderr)
	}
}

// TestSituationsOfLibvirt: no libvirt, no such domain, and a domain that is off.
func TestSituationsOfLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	q := peer.Start(t, peer.Options{Paused: true})
	const idle = `<domain type='qemu'><name>idle-vm</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`
	virsh(ctx, t, l, "define", writeFile(t, "idle.xml", idle))
	v := peer.NewVolume(t, peer.DetachedRaw)
	disk := writeFile(t, "disk.xml", v.DiskXML("vdb", "virtio"))
	closed := portOf(peer.ClosedPort(t))
	to := func(uri, domain string, args ...string) []string {
		return append([]string{"--timeout", "10s", "--connect", uri, "--domain", domain}, args...)
	}
	socket := func(path string) string { return "qemu:///system?socket=" + path }
	plain := writeFile(t, "plain", "")
	const startIt = "'virsh start idle-vm' starts it"
	for _, s := range []situation{
		{"a misspelt domain", to(l.URI, "idel-vm", "list"), 1, []string{"domain idel-vm", "there is no such domain", "did you mean idle-vm?"}},
		{"an unknown domain", to(l.URI, "database", "list"), 1, []string{"domain database", "there is no such domain", "it has idle-vm"}},
		{"attach to a domain that is off", to(l.URI, "idle-vm", "--passphrase-file", v.PassphraseFile, "attach", disk), 5, []string{"domain idle-vm is off", startIt, "--persistent"}},
		{"plan for a domain that is off", to(l.URI, "idle-vm", "plan", disk), 5, []string{"domain idle-vm is off", startIt, "--domain-xml"}},
		{"all nodes of a domain that is off", to(l.URI, "idle-vm", "list", "--all"), 5, []string{"domain idle-vm is off", startIt}},
		{"detach from a domain that is off", to(l.URI, "idle-vm", "detach", "vdb"), 5, []string{"the VM idle-vm, which is off", "no disk vdb", "nor any other"}},
		{"no socket", to(socket("/nonexistent/sock"), "vm1", "list"), 1, []string{"/nonexistent/sock", "there is no such socket", "start that libvirt"}},
		{"a file in place of the socket", to(socket(plain), "vm1", "list"), 1, []string{plain, "a regular file and not a socket", "correct ?socket="}},
		{"a monitor in place of libvirt", to(socket(q.Socket), "vm1", "list"), 1, []string{q.Socket, "another service listens there"}},
		{"no port", to("qemu+tcp://"+closed+"/system", "vm1", "list"), 1, []string{closed, "no process listens there", "libvirtd-tcp.socket"}},
		{"another hypervisor", to("xen:///system", "vm1", "list"), 3, []string{"--connect", "xen", "not supported"}},
		{"no URI", to("vm1", "vm1", "list"), 2, []string{"--connect", "invalid libvirt URI", "write it like qemu:///system"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			wantSituation(ctx, t, s, func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, luksplug, args...) })
		})
	}
	t.Run("a domain that is off and has no disk", func(t *testing.T) {
		run(ctx, t, exec.CommandContext(ctx, luksplug, to(l.URI, "idle-vm", "list")...)).want(t, 0).wantStdout(t, "the domain is off")
		run(ctx, t, exec.CommandContext(ctx, luksplug, to(l.URI, "idle-vm", "repair")...)).want(t, 0)
	})
}
