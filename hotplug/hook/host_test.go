package hook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// place returns a host for a test, and its log.
func place(t *testing.T) (hook.Host, *bytes.Buffer) {
	t.Helper()
	dir, log := t.TempDir(), &bytes.Buffer{}
	logger := logrus.New()
	logger.SetOutput(log)
	return hook.Host{Store: secrets.Chain(), Log: logger, Timeout: time.Second, RunDir: filepath.Join(dir, "vm"), LockDir: filepath.Join(dir, "lock")}, log
}

// event returns an event of a domain with recorded disks, whose monitor does not answer.
func event(t *testing.T, op hook.Operation, extra string, disks ...record.Disk) hook.Event {
	t.Helper()
	r := record.Record{User: "+0:+0"}
	for _, d := range disks {
		r = r.With(d)
	}
	metadata := ""
	if len(disks) > 0 {
		text, err := r.XML()
		must.OK(t, err)
		metadata = "<metadata>" + text + "</metadata>"
	}
	doc, err := recordtest.Domain(t, "q35", metadata).WithArguments(append(domainxml.MonitorArguments(t.TempDir(), recordtest.DomainUUID), domainxml.PortArguments(1)...))
	must.OK(t, err)
	return hook.Event{Domain: "vm1", Operation: op, Suboperation: "begin", Extra: extra, XML: doc.Text()}
}

// TestArrivedIsSpared: an error once QEMU runs ends a VM that boots, but not one that
// comes with a state.
func TestArrivedIsSpared(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h, log := place(t)
	disk := recordtest.Disk(t, 1)
	if _, err := h.Run(ctx, event(t, hook.Started, "-", disk)); err == nil {
		t.Error("a VM starts without its disk")
	}
	optional := disk
	optional.Optional = true
	if _, err := h.Run(ctx, event(t, hook.Started, "-", optional)); err != nil {
		t.Errorf("an optional disk: %v", err)
	}
	for _, op := range []hook.Operation{hook.Restore, hook.Migrate} {
		output, err := h.Run(ctx, event(t, op, "-", disk))
		if err != nil || !bytes.Contains(output, []byte("luksplug-vdb")) {
			t.Fatalf("%s: %v %s", op, err, output)
		}
		log.Reset()
		if _, err := h.Run(ctx, event(t, hook.Started, "-", disk)); err != nil || !strings.Contains(log.String(), "kept running") {
			t.Errorf("after %s: %v, logged %s", op, err, log)
		}
		if _, err := h.Run(ctx, event(t, hook.Stopped, "-", disk)); err != nil {
			t.Error(err)
		}
	}
}

// TestDamagedRecord: no VM starts with an unreadable record, but files on the host are
// removed.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h, _ := place(t)
	left := filepath.Join(h.RunDir, recordtest.DomainUUID, "vdb.json")
	for _, text := range []string{"<disks %s version='99'/>", "<disks %s><disk/></disks>", "<other %s/>"} {
		text := fmt.Sprintf(text, "xmlns='"+record.Namespace+"'")
		xml := recordtest.Domain(t, "q35", "<metadata>"+text+"</metadata>").Text()
		var made []string
		h.Gone = func(_ context.Context, id string) error { made = append(made, id); return nil }
		for _, op := range []hook.Operation{hook.Prepare, hook.Restore, hook.Migrate, hook.Started} {
			output, err := h.Run(ctx, hook.Event{Domain: "vm1", Operation: op, XML: xml})
			if err == nil || output != nil {
				t.Errorf("%s %s: %v, printed %q", text, op, err, output)
			}
		}
		must.OK(t, errors.Join(os.MkdirAll(filepath.Dir(left), 0o700), os.WriteFile(left, nil, 0o600)))
		_, err := h.Run(ctx, hook.Event{Domain: "vm1", Operation: hook.Release, Extra: hook.ReasonDestroyed, XML: xml})
		if err == nil {
			t.Errorf("%s: not logged", text)
		}
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) || !slices.Equal(made, []string{recordtest.DomainUUID}) {
			t.Errorf("%s: left on the host: %v; keys of %v destroyed", text, err, made)
		}
	}
}

// TestForget: keys are destroyed for the given reasons, also of a domain that no longer has
// disks.
func TestForget(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	var gone int
	h.Gone = func(context.Context, string) error { gone++; return nil }
	xml := recordtest.Domain(t, "q35", "").Text()
	for name, c := range map[string]struct{ forget, after []string }{
		"by default": {nil, []string{hook.ReasonDestroyed, hook.ReasonMigrated}},
		"configured": {[]string{"shutdown"}, []string{"shutdown"}},
		"never":      {[]string{}, nil},
	} {
		h.Forget = c.forget
		for _, reason := range hook.Reasons() {
			gone = 0
			for _, op := range []hook.Operation{hook.Stopped, hook.Release} {
				if _, err := h.Run(t.Context(), hook.Event{Domain: "vm1", Operation: op, Extra: reason, XML: xml}); err != nil {
					t.Error(err)
				}
			}
			if (gone == 1) != slices.Contains(c.after, reason) {
				t.Errorf("%s: after %s they are destroyed %d times", name, reason, gone)
			}
		}
	}
}

// TestOnlyItsOwnDirectory: a changed path of the monitor does not have another directory of
// the host removed.
func TestOnlyItsOwnDirectory(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	precious := filepath.Join(t.TempDir(), "precious")
	must.OK(t, errors.Join(os.Mkdir(precious, 0o700), os.WriteFile(filepath.Join(precious, "file"), nil, 0o600)))
	e := event(t, hook.Prepare, "-")
	doc, err := domainxml.Parse(e.XML)
	must.OK(t, err)
	old := domainxml.MonitorSocket(doc.Arguments())
	e.XML = bytes.ReplaceAll(e.XML, []byte(old), []byte(filepath.Join(precious, "qmp")))
	if _, err := h.Run(t.Context(), e); err == nil {
		t.Error("it is taken")
	}
	e.Operation = hook.Release
	if _, err := h.Run(t.Context(), e); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Error(err)
	}
}

// TestPanic: a panic becomes an error on one line, and its stack is logged.
func TestPanic(t *testing.T) {
	t.Parallel()
	h, log := place(t)
	h.Gone = func(context.Context, string) error { panic("on purpose") }
	output, err := h.Run(t.Context(), event(t, hook.Release, hook.ReasonDestroyed))
	if err == nil || output != nil || !strings.Contains(err.Error(), "on purpose") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, printed %q", err, output)
	}
	if !strings.Contains(log.String(), "host_test.go") {
		t.Errorf("logged %s", log)
	}
}

// TestDeadline: a call ends although something in it never does.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := place(t)
		forever := make(chan struct{})
		defer close(forever)
		h.Gone = func(context.Context, string) error { <-forever; return nil }
		start := time.Now()
		_, err := h.Run(t.Context(), event(t, hook.Release, hook.ReasonDestroyed))
		if took := time.Since(start); !errors.Is(err, hook.ErrTimeout) || took > h.Timeout+10*time.Second {
			t.Errorf("got %v after %s", err, took)
		}
	})
}
