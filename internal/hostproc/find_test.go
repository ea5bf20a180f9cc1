package hostproc

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// acceptor, if set in the environment, makes this test program a process that accepts connections on the socket
// that it inherits as descriptor 3, and keeps them open until its standard input ends.
const acceptor = "LUKSPLUG_TEST_ACCEPTOR"

func TestMain(m *testing.M) {
	if os.Getenv(acceptor) == "" {
		os.Exit(m.Run())
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
			fmt.Println("accepted")
		}
	}()
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // the test ends
}

// accepting starts a process that accepts connections on l, and closes l here. accepted waits for the next one.
func accepting(t *testing.T, l interface{ File() (*os.File, error) }) (pid int, accepted func()) {
	t.Helper()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), acceptor+"=1"), []*os.File{file}, os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start(), file.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // which ends it
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	return cmd.Process.Pid, func() {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the other process has ended")
		}
	}
}

// TestTCPPeer: two processes listen on the same port of different addresses. The port alone names either of them, the
// addresses and ports of both ends the right one.
func TestTCPPeer(t *testing.T) {
	t.Parallel()
	for _, addresses := range [][2]string{{"127.0.0.1", "127.0.0.2"}, {"127.0.0.1", "[::1]"}, {"127.0.0.2", "[::]"}} {
		t.Run(addresses[0]+" and "+addresses[1], func(t *testing.T) {
			t.Parallel()
			mine, err := net.Listen("tcp4", addresses[0]+":0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = mine.Close() }() // the test ends
			_, port, _ := net.SplitHostPort(mine.Addr().String())
			network := "tcp"
			if strings.HasPrefix(addresses[1], "[") {
				network = "tcp6"
			}
			other, err := net.Listen(network, addresses[1]+":"+port)
			if err != nil {
				t.Skipf("no second listener: %v", err)
			}
			pid, accepted := accepting(t, other.(*net.TCPListener))
			_ = other.Close() // the other process has it
			for address, want := range map[string]int{mine.Addr().String(): os.Getpid(), strings.Replace(addresses[1], "[::]", "[::1]", 1) + ":" + port: pid} {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if want == pid {
					accepted()
				} else if end, err := mine.Accept(); err == nil {
					defer func() { _ = end.Close() }()
				}
				local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
				if got, err := TCPPeer(local, remote); got != want || err != nil {
					t.Errorf("%s: process %d, %v; want %d", address, got, err, want)
				}
				if got, err := TCPPeer(local, netip.AddrPortFrom(remote.Addr(), 1)); !errors.Is(err, ErrUnseen) {
					t.Errorf("a connection that does not exist: process %d, %v", got, err)
				}
			}
		})
	}
}

func TestEstablished(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:115C 0200007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:115C 0200007F:9C41 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:115C 0200007F:9C42 06 00000000:00000000 00:00000000 00000000     0        0 1003 1 0000000000000000 20 4 30 10 -1
   4: 0000000000000000FFFF00000100007F:115C 0000000000000000FFFF00000300007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1004 1 0 20 4 30 10 -1
   5: xyz:115C 0300007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1005 1 0 20 4 30 10 -1
`
	for _, c := range []struct{ local, remote, want string }{
		{"127.0.0.1:4444", "127.0.0.2:40000", "1002"},
		{"127.0.0.1:4444", "127.0.0.2:40001", ""}, // not accepted
		{"127.0.0.1:4444", "127.0.0.2:40002", ""}, // has ended
		{"127.0.0.1:4444", "127.0.0.3:40000", "1004"},
		{"[::ffff:127.0.0.1]:4444", "127.0.0.3:40000", "1004"},
		{"127.0.0.2:4444", "127.0.0.2:40000", ""},
	} {
		if got := established(table, netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote)); got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.local, c.remote, got, c.want)
		}
	}
}

// TestListeners: a listening socket that was passed on belongs to the process that has it, too.
func TestListeners(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "luksplug-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "a socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	pid, _ := accepting(t, l)
	if got := Listeners(path); len(got) != 2 || !slices.Contains(got, pid) || !slices.Contains(got, os.Getpid()) {
		t.Errorf("%v, want %d and %d", got, pid, os.Getpid())
	}
	if got := Listeners(path + "2"); len(got) != 0 {
		t.Errorf("a path without a socket: %v", got)
	}
}

func TestParseQEMU(t *testing.T) {
	t.Parallel()
	const id = "5b6a2b6c-7a0a-4a1f-9a3e-0123456789ab"
	for args, want := range map[string]struct {
		uuid string
		qemu bool
	}{
		"/usr/bin/qemu-system-x86_64|-name|vm|-uuid|" + id + "|":                        {id, true},
		"/usr/bin/qemu-system-x86_64|--uuid|" + strings.ToUpper(id) + "|-S|":            {id, true},
		"/usr/bin/kvm|-uuid|00000000-0000-0000-0000-000000000001|-uuid|" + id + "|":     {id, true},
		"/usr/bin/qemu-system-x86_64|-smbios|type=1,serial=x,uuid=" + id + "|":          {id, true},
		"/usr/bin/qemu-system-x86_64|-uuid|00000000-0000-0000-0000-000000000000|":       {"", true},
		"/nix/store/x/bin/.qemu-system-x86_64-wrapped|-uuid|" + id + "|":                {id, true},
		"/lib/ld-linux-x86-64.so.2|--argv0|x|/r/usr/bin/qemu-system-x86_64|-uuid|" + id: {id, true},
		"/usr/bin/qemu-system-x86_64|-S|":                                               {"", true},
		"/usr/bin/qemu-system-x86_64|-uuid":                                             {"", true},
		"grep|-uuid|" + id + "|":                                                        {"", false},
		"socat|UNIX-LISTEN:/run/qemu|-uuid|" + id + "|":                                 {"", false},
		"": {"", false},
	} {
		if uuid, qemu := parseQEMU(strings.Split(args, "|")); uuid != want.uuid || qemu != want.qemu {
			t.Errorf("%q: %q, %t", args, uuid, qemu)
		}
	}
}
