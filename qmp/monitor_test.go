package qmp

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
)

// go-qemu's own socket monitor, on a real QEMU, connected and not.
func TestNewMonitorSocket(t *testing.T) {
	t.Parallel()
	q := startQEMU(t, "-machine", "none")
	for _, connected := range []bool{true, false} {
		m, err := goqemu.NewSocketMonitor("unix", q.unix, patience)
		must(t, err)
		if connected {
			must(t, m.Connect())
		}
		c, err := NewMonitor(testContext(t), m)
		must(t, err)
		if c.Version().QEMU.Major < 5 {
			t.Errorf("version %v", c.Version())
		}
		sub := c.Subscribe("STOP")
		if _, err := c.Execute(testContext(t), Command{Execute: "stop"}); err != nil {
			t.Error(err)
		}
		await(t, sub.Events(), "STOP")
		if _, err := c.Execute(testContext(t), Command{Execute: "cont"}); err != nil {
			t.Error(err)
		}
		_, err = c.Execute(testContext(t), command("blockdev-del", "node-name", "none"))
		if refusal, ok := errAs[*Error](err); !ok || refusal.Class != genericError || !errors.Is(err, ErrNodeNotFound) {
			t.Errorf("%v", err)
		}
		if _, err := c.Execute(testContext(t), Command{Execute: "add-fd", File: memfd(t, 0)}); !errors.Is(err, ErrFileUnsupported) {
			t.Errorf("%v", err)
		}
		must(t, c.Close())
		must(t, c.Close())
		awaitClosed(t, sub.Events(), "the subscription")
		if _, err := c.Execute(testContext(t), Command{Execute: "stop"}); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	}
}

// A QEMU that exits is noticed by the end of go-qemu's events.
func TestNewMonitorLosesQEMU(t *testing.T) {
	t.Parallel()
	q := startQEMU(t, "-machine", "none")
	m, err := goqemu.NewSocketMonitor("tcp", q.tcp, patience)
	must(t, err)
	c, err := NewMonitor(testContext(t), m)
	must(t, err)
	defer closeIt(t, c)
	q.kill()
	await2(t, c.Done())
	if !errors.Is(c.Err(), ErrConnectionLost) {
		t.Errorf("%v", c.Err())
	}
}

func TestNewMonitorIsNotGreeted(t *testing.T) {
	t.Parallel()
	_, q := startNone(t)
	m, err := goqemu.NewSocketMonitor("unix", q.unix, patience)
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := NewMonitor(ctx, m); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another client") {
		t.Errorf("%v", err)
	}
}

// fakeMonitor answers with a function.
type fakeMonitor struct {
	run       func(command string) (string, error)
	eventsErr error

	once   sync.Once
	events chan Event
}

func newFakeMonitor(run func(string) (string, error)) *fakeMonitor {
	return &fakeMonitor{run: run, events: make(chan Event)}
}

func (f *fakeMonitor) Connect() error    { return nil }
func (f *fakeMonitor) Disconnect() error { f.once.Do(func() { close(f.events) }); return nil }
func (f *fakeMonitor) Events(context.Context) (<-chan Event, error) {
	return f.events, f.eventsErr
}

func (f *fakeMonitor) Run(command []byte) ([]byte, error) {
	if strings.Contains(string(command), "query-version") {
		return []byte(`{"return":{"qemu":{"major":9,"minor":1,"micro":2},"package":""}}`), nil
	}
	reply, err := f.run(string(command))
	return []byte(reply), err
}

// What each kind of answer of a foreign monitor means.
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
		"event as reply":    {strayEvent, nil, unknown},
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
			var trace traceLog
			m := newFakeMonitor(func(string) (string, error) { return test.reply, test.err })
			c, err := NewMonitor(testContext(t), m, WithTrace(trace.add), WithConnect())
			must(t, err)
			defer closeIt(t, c)
			if c.VersionString() != "9.1.2" {
				t.Error(c.VersionString())
			}
			_, err = c.Execute(testContext(t), command("object-add", "data", NewSensitive([]byte("c2VjcmV0"))))
			_, isRefused := errAs[*Error](err)
			_, isUnknown := errAs[*UnknownOutcomeError](err)
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

// A caller leaves a monitor that does not answer; its late answer goes to nobody.
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
	c, err := NewMonitor(testContext(t), m, WithoutIDs())
	must(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	errs := make(chan error, 2)
	go func() {
		_, err := c.Execute(ctx, Command{Execute: "slow"})
		errs <- err
	}()
	await(t, entered, "the command")
	go func() {
		_, err := c.Execute(ctx, Command{Execute: "never sent"}) // waits for the slow one
		errs <- err
	}()
	cancel()
	unknowns := 0
	for range 2 {
		err := await(t, errs, "a cancelled caller")
		if _, ok := errAs[*UnknownOutcomeError](err); ok {
			unknowns++
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if unknowns != 1 {
		t.Errorf("%d outcomes are unknown, want that of the slow command alone", unknowns)
	}
	close(goOn)
	if value, err := c.Execute(testContext(t), Command{Execute: "quick"}); err != nil || string(value) != `"quick"` {
		t.Errorf("%s, %v", value, err)
	}
	must(t, c.Close())
}

func TestMonitorWithoutEvents(t *testing.T) {
	t.Parallel()
	m := newFakeMonitor(nil)
	m.eventsErr = goqemu.ErrEventsNotSupported
	c, err := NewMonitor(testContext(t), m)
	must(t, err)
	sub := c.Subscribe()
	must(t, c.Close())
	awaitClosed(t, sub.Events(), "the subscription")

	m = newFakeMonitor(nil)
	m.eventsErr = errors.New("broken")
	if _, err := NewMonitor(testContext(t), m); !errors.Is(err, m.eventsErr) {
		t.Errorf("%v", err)
	}
}
