package goqemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	goqemu "github.com/digitalocean/go-qemu/qmp"
	"go.uber.org/goleak"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// go-qemu's own socket monitor, on a real QEMU, connected and not.
func TestNewClientSocket(t *testing.T) {
	t.Parallel()
	q := qmptest.StartQEMU(t, "-machine", "none")
	for _, connected := range []bool{true, false} {
		m, err := goqemu.NewSocketMonitor("unix", q.Unix, qmptest.Patience)
		must.OK(t, err)
		if connected {
			must.OK(t, m.Connect())
		}
		c, err := NewClient(qmptest.Context(t), m)
		must.OK(t, err)
		if c.Version().QEMU.Major < 5 {
			t.Errorf("version %v", c.Version())
		}
		sub := c.Subscribe("STOP")
		if _, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "stop"}); err != nil {
			t.Error(err)
		}
		qmptest.Await(t, sub.Events(), "STOP")
		if _, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "cont"}); err != nil {
			t.Error(err)
		}
		_, err = c.Execute(qmptest.Context(t), qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{"node-name", "none"}}})
		if refusal, ok := qmptest.ErrorAs[*qmp.Error](err); !ok || refusal.Class != "GenericError" || !errors.Is(err, qmp.ErrNodeNotFound) {
			t.Errorf("%v", err)
		}
		if _, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "add-fd", File: qmptest.Memfd(t, 0)}); !errors.Is(err, qmp.ErrFileUnsupported) {
			t.Errorf("%v", err)
		}
		must.OK(t, c.Close())
		must.OK(t, c.Close())
		qmptest.AwaitClosed(t, sub.Events(), "the subscription")
		if _, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "stop"}); !errors.Is(err, qmp.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
}

// The end of go-qemu's events reports that a QEMU has exited.
func TestNewClientLosesQEMU(t *testing.T) {
	t.Parallel()
	q := qmptest.StartQEMU(t, "-machine", "none")
	m, err := goqemu.NewSocketMonitor("tcp", q.TCP, qmptest.Patience)
	must.OK(t, err)
	c, err := NewClient(qmptest.Context(t), m)
	must.OK(t, err)
	defer qmptest.Close(t, c)
	q.Kill()
	qmptest.AwaitDone(t, c.Done())
	if !errors.Is(c.Err(), qmp.ErrConnectionLost) {
		t.Errorf("%v", c.Err())
	}
}

func TestNewClientIsNotGreeted(t *testing.T) {
	t.Parallel()
	_, q := qmptest.StartNone(t, func(ctx context.Context, address string) (*qmp.Client, error) { return qmp.Dial(ctx, address) })
	m, err := goqemu.NewSocketMonitor("unix", q.Unix, qmptest.Patience)
	must.OK(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := NewClient(ctx, m); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another client") {
		t.Errorf("%v", err)
	}
}

// fakeMonitor answers with a function.
type fakeMonitor struct {
	run       func(command string) (string, error)
	eventsErr error

	once   sync.Once
	events chan goqemu.Event
}

func newFakeMonitor(run func(string) (string, error)) *fakeMonitor {
	return &fakeMonitor{run: run, events: make(chan goqemu.Event)}
}

func (f *fakeMonitor) Connect() error    { return nil }
func (f *fakeMonitor) Disconnect() error { f.once.Do(func() { close(f.events) }); return nil }
func (f *fakeMonitor) Events(context.Context) (<-chan goqemu.Event, error) {
	return f.events, f.eventsErr
}

func (f *fakeMonitor) Run(command []byte) ([]byte, error) {
	if strings.Contains(string(command), "query-version") {
		return []byte(`{"return":{"qemu":{"major":9,"minor":1,"micro":2},"package":""}}`), nil
	}
	reply, err := f.run(string(command))
	return []byte(reply), err
}

// The outcome of each kind of answer of a foreign monitor.
func TestMonitorOutcomes(t *testing.T) {
	t.Parallel()
	type outcome int
	const (
		done outcome = iota
		refused
		unknown
		unsent
	)
	for name, test := range map[string]struct {
		reply string
		err   error
		want  outcome
	}{
		"return":            {`{"return":5}`, nil, done},
		"null":              {`{"return":null}`, nil, done},
		"libvirt's id":      {`{"return":5,"id":"libvirt-17"}`, nil, done},
		"error in JSON":     {`{"error":{"class":"GenericError","desc":"no c2VjcmV0"},"id":"libvirt-17"}`, nil, refused},
		"errors.New":        {"", errors.New("no c2VjcmV0"), refused},
		"another's reply":   {`{"return":5,"id":"99"}`, nil, unknown},
		"empty":             {"", nil, unknown},
		"event as reply":    {`{"event":"STRAY","data":{"n":1},"timestamp":{"seconds":1,"microseconds":2}}`, nil, unknown},
		"EOF":               {"", io.EOF, unknown},
		"too long":          {"", bufio.ErrTooLong, unknown},
		"wrapped":           {"", fmt.Errorf("write c2VjcmV0: %w", io.EOF), unknown},
		"JSON":              {"", &json.SyntaxError{}, unknown},
		"libvirt, internal": {"", libvirt.Error{Code: uint32(libvirt.ErrInternalError), Message: "c2VjcmV0"}, unknown},
		"libvirt, lost":     {"", libvirt.ErrInterrupted, unknown},
		"libvirt, off":      {"", libvirt.Error{Code: uint32(libvirt.ErrOperationInvalid), Message: "not running c2VjcmV0"}, unsent},
		"libvirt, old":      {"", libvirt.ErrUnsupported, unsent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var trace qmptest.Log
			m := newFakeMonitor(func(string) (string, error) { return test.reply, test.err })
			c, err := NewClient(qmptest.Context(t), m, qmp.WithTrace(func(e qmp.TraceEntry) { trace.Add(e.Direction, e.JSON) }))
			must.OK(t, err)
			defer qmptest.Close(t, c)
			if c.VersionString() != "9.1.2" {
				t.Error(c.VersionString())
			}
			_, err = c.Execute(qmptest.Context(t), qmp.Command{Execute: "object-add", Arguments: qmp.Object{{"data", qmp.NewSensitive([]byte("c2VjcmV0"))}}})
			_, isRefused := qmptest.ErrorAs[*qmp.Error](err)
			_, isUnknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err)
			if (err == nil) != (test.want == done) || isRefused != (test.want == refused) || isUnknown != (test.want == unknown) {
				t.Errorf("%v", err)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", e, e, e), "c2VjcmV0") {
					t.Errorf("%#v", e)
				}
			}
			if strings.Contains(trace.String(), "c2VjcmV0") {
				t.Error(trace.String())
			}
		})
	}
}

// A caller leaves a monitor that does not answer; the late answer is dropped.
func TestMonitorLateAnswer(t *testing.T) {
	t.Parallel()
	goOn, entered := make(chan struct{}), make(chan struct{}, 2)
	m := newFakeMonitor(func(command string) (string, error) {
		entered <- struct{}{}
		if strings.Contains(command, "slow") {
			<-goOn
			return `{"return":"slow"}`, nil
		}
		return `{"return":"quick"}`, nil
	})
	c, err := NewClient(qmptest.Context(t), m, qmp.WithoutIDs())
	must.OK(t, err)
	ctx, cancel := context.WithCancel(qmptest.Context(t))
	slow := qmptest.Start(ctx, c.Execute, qmp.Command{Execute: "slow"})
	qmptest.Await(t, entered, "the command")
	behind := qmptest.Start(ctx, c.Execute, qmp.Command{Execute: "never sent"}) // waits for the slow one
	cancel()
	for errs, want := range map[<-chan error]bool{slow: true, behind: false} {
		err := qmptest.Await(t, errs, "a cancelled caller")
		if _, unknown := qmptest.ErrorAs[*qmp.UnknownOutcomeError](err); unknown != want || !errors.Is(err, context.Canceled) {
			t.Errorf("%v; want an unknown outcome: %v", err, want)
		}
	}
	close(goOn)
	if value, err := c.Execute(qmptest.Context(t), qmp.Command{Execute: "quick"}); err != nil || string(value) != `"quick"` {
		t.Errorf("%s, %v", value, err)
	}
	must.OK(t, c.Close())
}

func TestMonitorWithoutEvents(t *testing.T) {
	t.Parallel()
	m := newFakeMonitor(nil)
	m.eventsErr = goqemu.ErrEventsNotSupported
	c, err := NewClient(qmptest.Context(t), m)
	must.OK(t, err)
	sub := c.Subscribe()
	must.OK(t, c.Close())
	qmptest.AwaitClosed(t, sub.Events(), "the subscription")

	m = newFakeMonitor(nil)
	m.eventsErr = errors.New("broken")
	if _, err := NewClient(qmptest.Context(t), m); !errors.Is(err, m.eventsErr) {
		t.Errorf("%v", err)
	}
}
