package qmplibvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

func script(t *testing.T, text string) string {
	t.Helper()
	return qmptest.WriteProgram(t, filepath.Join(t.TempDir(), "program"), text)
}

// The outcome of the command for each exit of virsh.
func TestVirshOutcomes(t *testing.T) {
	t.Parallel()
	type outcome int
	const (
		done outcome = iota
		refused
		unknown
		unsent
	)
	for name, test := range map[string]struct {
		script string
		want   outcome
		text   string
	}{
		"return":         {`echo '{"return":{"fd":5},"id":"libvirt-7"}'`, done, ""},
		"return, exit 1": {`echo '{"return":{"fd":5}}'; exit 1`, done, ""},
		"error":          {`echo '{"id":"libvirt-7","error":{"class":"GenericError","desc":"no"}}'`, refused, "no"},
		"the file":       {`read line <&3; echo '{"return":"'"$line"'"}'`, done, ""},
		"arguments":      {`case "$*" in "--quiet --connect u:/// qemu-monitor-command --domain d --pass-fds 3 {\"execute\":\"add-fd\",\"arguments\":{\"x\":\"a b\"}}") echo '{"return":{}}';; esac`, done, ""},
		"language":       {`[ "$LC_ALL" = C ] && echo '{"return":{}}'`, done, ""},
		"own group":      {`read -r pid name state parent group rest < /proc/$$/stat; [ $group = $$ ] && echo '{"return":{}}'`, done, ""},
		"nothing":        {`:`, unknown, "no reply"},
		"rubbish":        {`echo hello`, unknown, "no reply"},
		"two replies":    {`echo '{"return":1}'; echo '{"return":2}'`, unknown, "no reply"},
		"an event":       {`echo '{"event":"STOP"}'`, unknown, "no reply"},
		"endless reply":  {`head -c 3000000 /dev/zero`, unknown, "no reply"},
		"exit": {`echo "error: some
			thing" >&2; exit 3`, unknown, "exit status 3 (message: error: some thing)"},
		"killed":             {`kill -9 $$`, unknown, "killed"},
		"endless complaint":  {`yes complaint | head -c 1000000 >&2; exit 1`, unknown, "complaint complaint"},
		"off":                {`echo "error: Requested operation is not valid: domain is not running" >&2; exit 1`, unsent, "not running"},
		"old virsh":          {`echo "error: command 'qemu-monitor-command' doesn't support option --pass-fds" >&2; exit 1`, unsent, "support"},
		"off, after a reply": {`echo x; echo "error: domain is not running" >&2; exit 1`, unknown, "not running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := Virsh{Program: script(t, test.script), URI: "u:///", Domain: "d"}
			cmd := command("add-fd", "x", "a b")
			cmd.File = textFile(t, "hello\n")
			value, err := passerClient(t, v.PassFile).Execute(qmptest.Context(t), cmd)
			_, isRefused := qmptest.ErrorAs[*qmp.Error](err)
			_, isUnknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err)
			isUnsent := errors.Is(err, qmp.ErrNotSent)
			if (err == nil) != (test.want == done) || isRefused != (test.want == refused) ||
				isUnknown != (test.want == unknown) || isUnsent != (test.want == unsent) {
				t.Errorf("%s, %v", value, err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 6000) {
				t.Errorf("%.300v", err)
			}
			if name == "the file" && string(value) != `"hello"` {
				t.Errorf("descriptor 3 gave %s", value)
			}
		})
	}
}

// If virsh is not started, nothing was sent.
func TestVirshNotStarted(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "ran")
	good := script(t, "touch "+marker)
	file := textFile(t, "")
	closed := textFile(t, "")
	must.OK(t, closed.Close())
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	withSecret := command("add-fd", "opaque", qmp.NewSensitive([]byte("c2VjcmV0")))
	for name, test := range map[string]struct {
		ctx   context.Context
		virsh Virsh
		cmd   qmp.Command
		want  error
	}{
		"missing":     {nil, Virsh{Program: "/nonexistent/virsh", Domain: "d"}, command("add-fd"), qmp.ErrNotSent},
		"not in PATH": {nil, Virsh{Program: "no-such-virsh", Domain: "d"}, command("add-fd"), qmp.ErrNotSent},
		"no domain":   {nil, Virsh{Program: good}, command("add-fd"), qmp.ErrNotSent},
		"context":     {ended, Virsh{Program: good, Domain: "d"}, command("add-fd"), context.Canceled},
		"secret":      {nil, Virsh{Program: good, Domain: "d"}, withSecret, qmp.ErrFileWithSecret},
		"too long":    {nil, Virsh{Program: good, Domain: "d"}, command("add-fd", "opaque", strings.Repeat("x", 200<<10)), qmp.ErrNotSent},
		"closed file": {nil, Virsh{Program: good, Domain: "d"}, qmp.Command{Execute: "add-fd", File: closed}, nil}, // an error of package qmp,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.ctx == nil {
				test.ctx = qmptest.Context(t)
			}
			if test.cmd.File == nil {
				test.cmd.File = file
			}
			_, err := passerClient(t, test.virsh.PassFile).Execute(test.ctx, test.cmd)
			if _, unknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err); unknown || !errors.Is(err, test.want) && (test.want != nil || !strings.Contains(err.Error(), "cannot pass the file")) || strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("%.300v", err)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("virsh was started")
			}
		})
	}
}

// The end of the context, or of the client, kills a virsh that does not answer, with its children.
func TestVirshCancelled(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"context", "client"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			pipe := filepath.Join(t.TempDir(), "pipe")
			must.OK(t, unix.Mkfifo(pipe, 0o600))
			// The write returns when the test has opened the pipe: virsh runs.
			virsh := Virsh{Program: script(t, "sleep 1000 & echo $! > "+pipe+"; wait"), Domain: "d"}
			passed := make(chan error, 1)
			c := passerClient(t, func(ctx context.Context, command []byte, f *os.File) ([]byte, error) {
				reply, err := virsh.PassFile(ctx, command, f)
				passed <- err
				return reply, err
			})
			ctx, cancel := context.WithCancel(qmptest.Context(t))
			defer cancel()
			errs := qmptest.Start(ctx, c.Execute, qmp.Command{Execute: "add-fd", File: textFile(t, "")})
			text, err := os.ReadFile(pipe)
			must.OK(t, err)
			var child int
			_, err = fmt.Sscan(string(text), &child)
			must.OK(t, err)
			process, err := hostproc.Process{PID: child}.Open()
			must.OK(t, err)
			defer process.Close()
			want := context.Canceled
			if end == "client" {
				must.OK(t, c.Close())
				want = qmp.ErrClosed
			} else {
				cancel()
			}
			err = qmptest.Await(t, errs, "the caller")
			if _, unknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err); !unknown || !errors.Is(err, want) {
				t.Errorf("%v", err)
			}
			if err := qmptest.Await(t, passed, "the end of virsh"); errors.Is(err, qmp.ErrNotSent) || !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if err := process.Wait(qmptest.Context(t)); err != nil {
				t.Errorf("virsh's child lives: %v", err)
			}
		})
	}
}

// Commands without a file do not go through the FilePasser.
func TestFilePasserLeavesOthers(t *testing.T) {
	t.Parallel()
	c := passerClient(t, func(context.Context, []byte, *os.File) ([]byte, error) {
		return nil, errors.New("called")
	})
	if _, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "query-status"}); err != nil {
		t.Error(err)
	}
	_, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "add-fd", File: textFile(t, "")})
	if _, unknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err); !unknown {
		t.Errorf("an error that does not wrap ErrNotSent: %v", err)
	}
}

// passerClient is a client over libvirt's RPC, whose files go through p.
func passerClient(t *testing.T, p FilePasser) *qmp.Client {
	t.Helper()
	l, _ := startLibvirt(t, startNone(t))
	c, err := NewClient(qmptest.Context(t), l, testDomain, p)
	must.OK(t, err)
	t.Cleanup(func() { qmptest.Close(t, c) })
	return c
}

func textFile(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must.OK(t, os.WriteFile(path, []byte(text), 0o600))
	file, err := os.Open(path)
	must.OK(t, err)
	t.Cleanup(func() { _ = file.Close() }) // a test may have closed it
	return file
}
