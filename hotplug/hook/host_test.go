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
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// place returns a host for a test, and its log.
func place(t *testing.T) (hook.Host, *bytes.Buffer) {
	t.Helper()
	dir, log := t.TempDir(), &bytes.Buffer{}
	logger := logrus.New()
	logger.SetOutput(log)
	_, key := recordtest.Signer(t)
	users := hook.QEMUUser{Noted: filepath.Join(dir, "qemu-user.json")}
	must.OK(t, users.Note(*hostproc.Self()))
	return hook.Host{Store: secrets.Chain(), Log: logger, Timeout: time.Second, RunDir: filepath.Join(dir, "vm"), LockDir: filepath.Join(dir, "lock"),
		MonitorDir: filepath.Join(dir, "monitor"), RecordKey: key, QEMUUser: users}, log
}

// event returns an event of a domain with recorded disks, whose monitor does not answer. The
// record is signed with the host's key.
func event(t *testing.T, h hook.Host, op hook.Operation, extra string, disks ...record.Disk) hook.Event {
	t.Helper()
	r := record.Record{User: "+0:+0"}
	for _, d := range disks {
		r = r.With(d)
	}
	key := must.Get(record.LoadKey(h.RecordKey))(t)
	r = must.Get(record.Signer{Key: key, UUID: recordtest.DomainUUID}.Sign(r))(t)
	metadata := ""
	if len(disks) > 0 {
		text, err := r.XML()
		must.OK(t, err)
		metadata = "<metadata>" + text + "</metadata>"
	}
	doc, err := recordtest.Domain(t, "q35", metadata).WithArguments(append(domainxml.MonitorArguments(h.MonitorDir, recordtest.DomainUUID), domainxml.PortArguments(1)...))
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
	if _, err := h.Run(ctx, event(t, h, hook.Started, "-", disk)); err == nil {
		t.Error("a VM starts without its disk")
	}
	optional := disk
	optional.Optional = true
	if _, err := h.Run(ctx, event(t, h, hook.Started, "-", optional)); err != nil {
		t.Errorf("an optional disk: %v", err)
	}
	for _, op := range []hook.Operation{hook.Restore, hook.Migrate} {
		output, err := h.Run(ctx, event(t, h, op, "-", disk))
		if err != nil || !bytes.Contains(output, []byte("luksplug-vdb")) {
			t.Fatalf("%s: %v %s", op, err, output)
		}
		log.Reset()
		if _, err := h.Run(ctx, event(t, h, hook.Started, "-", disk)); err != nil || !strings.Contains(log.String(), "kept running") {
			t.Errorf("after %s: %v, logged %s", op, err, log)
		}
		if _, err := h.Run(ctx, event(t, h, hook.Stopped, "-", disk)); err != nil {
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
		h.Keys = func(_ context.Context, e hook.Event) error { made = append(made, e.UUID()); return nil }
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

// TestKeysFollow: keys follow each domain that ends, also one that no longer has disks, and the
// start of those whose record verifies.
func TestKeysFollow(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	var called []string
	h.Keys = func(_ context.Context, e hook.Event) error {
		called = append(called, string(e.Operation)+" "+e.Extra)
		return nil
	}
	without := recordtest.Domain(t, "q35", "").Text()
	for _, op := range []hook.Operation{hook.Prepare, hook.Start, hook.Started, hook.Stopped, hook.Reconnect} {
		if _, err := h.Run(t.Context(), hook.Event{Domain: "vm1", Operation: op, Extra: "-", XML: without}); err != nil {
			t.Error(err)
		}
	}
	if len(called) > 0 {
		t.Errorf("called at %q", called)
	}
	for _, reason := range hook.Reasons() {
		called = nil
		if _, err := h.Run(t.Context(), hook.Event{Domain: "vm1", Operation: hook.Release, Extra: reason, XML: without}); err != nil {
			t.Error(err)
		}
		if !slices.Equal(called, []string{"release " + reason}) {
			t.Errorf("after %s: called at %q", reason, called)
		}
	}
	called = nil
	e := event(t, h, hook.Prepare, "-", recordtest.Disk(t, 1))
	_, _ = h.Run(t.Context(), e) // its files are missing
	if !slices.Equal(called, []string{"prepare -"}) {
		t.Errorf("at a start: called at %q", called)
	}
	called = nil
	e.XML = bytes.ReplaceAll(e.XML, []byte("vdb"), []byte("vdc"))
	if _, err := h.Run(t.Context(), e); !errors.Is(err, hook.ErrUnverified) || len(called) > 0 {
		t.Errorf("a record that does not verify: %v, called at %q", err, called)
	}
}

// TestOnlyItsOwnDirectory: a changed path of the monitor does not have another directory of
// the host removed.
func TestOnlyItsOwnDirectory(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	precious := filepath.Join(t.TempDir(), "precious", recordtest.DomainUUID) // the name alone does not make it the domain's
	must.OK(t, errors.Join(os.MkdirAll(precious, 0o700), os.WriteFile(filepath.Join(precious, "file"), nil, 0o600)))
	e := event(t, h, hook.Prepare, "-")
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
	h.Keys = func(context.Context, hook.Event) error { panic("on purpose") }
	output, err := h.Run(t.Context(), event(t, h, hook.Release, hook.ReasonDestroyed))
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
		h.Keys = func(context.Context, hook.Event) error { <-forever; return nil }
		start := time.Now()
		_, err := h.Run(t.Context(), event(t, h, hook.Release, hook.ReasonDestroyed))
		if took := time.Since(start); !errors.Is(err, hook.ErrTimeout) || took > h.Timeout+10*time.Second {
			t.Errorf("got %v after %s", err, took)
		}
	})
}
