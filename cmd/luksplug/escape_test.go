package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// evil is a text that clears a terminal in 7 and in 8 bits, sets its title, reverses the line, and goes on in a line
// that looks like the program's own.
const evil = "x\x1b[2J\x1b]0;title\x07\u009b2J\u202e\x7f\r\t\nluksplug: FORGED"

// evilJSON is the same as a part of a JSON string, in which QEMU would not escape it.
var evilJSON = func() string {
	text, _ := json.Marshal(evil) // a string always has JSON
	return strings.Trim(string(text), `"`)
}()

// wantPrintable checks that a text has no control character but the ends of its lines, and no line of evil's.
func wantPrintable(t *testing.T, what, text string) {
	t.Helper()
	for n, line := range strings.Split(text, "\n") {
		if strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%s, line %d, is not printable: %q", what, n+1, line)
		}
		if strings.HasPrefix(line, "luksplug: FORGED") {
			t.Errorf("%s has a line of its own making:\n%s", what, text)
		}
	}
}

// monitor is a monitor with answers that no real QEMU gives: values by the command, or errors. It returns its address.
func monitor(t *testing.T, answers map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	listener := must.Get(net.Listen("unix", path))(t)
	var wg sync.WaitGroup
	serve := func(conn net.Conn) {
		defer func() { _ = conn.Close() }() // the client may have closed it
		in := bufio.NewReader(conn)
		_, err := fmt.Fprintf(conn, `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"%s"},"capabilities":[]}}`+"\n", evilJSON)
		for err == nil {
			var line []byte
			if line, err = in.ReadBytes('\n'); err != nil {
				return
			}
			var c struct {
				Execute   string
				Arguments map[string]any
				ID        json.RawMessage
			}
			if json.Unmarshal(line, &c) != nil {
				return
			}
			name := c.Execute
			if path, ok := c.Arguments["path"].(string); ok {
				name += " " + path
			}
			answer, known := answers[name]
			switch {
			case !known && strings.HasPrefix(name, "qom-list"):
				answer = `"return":[]`
			case !known:
				answer = `"return":{}`
			}
			_, err = fmt.Fprintf(conn, `{"event":"RESUME","data":{"x":"%s"},"timestamp":{"seconds":1,"microseconds":1}}`+"\n"+`{%s,"id":%s}`+"\n", evilJSON, answer, c.ID)
		}
	}
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return path
}

// evilQEMU returns the answers of a QEMU all of whose names and texts are evil.
func evilQEMU() map[string]string {
	refused := `"error":{"class":"GenericError","desc":"` + evilJSON + `"}`
	return map[string]string{
		"query-named-block-nodes": `"return":[{"node-name":"luksplug-vdb-` + evilJSON + `","drv":"` + evilJSON + `","file":"` + evilJSON + `"},` +
			`{"node-name":"luksplug-vdb-payload-storage","drv":"file","file":"` + evilJSON + `","image":{"virtual-size":1}},` +
			`{"node-name":"luksplug-vdc-` + evilJSON + `"},{"node-name":"` + evilJSON + `"}]`,
		"qom-list /objects":            `"return":[{"name":"luksplug-vdb-` + evilJSON + `","type":"child<secret>"},{"name":"luksplug-vdc-` + evilJSON + `","type":"child<secret>"}]`,
		"qom-list /machine/peripheral": `"return":[{"name":"` + evilJSON + `","type":"child<` + evilJSON + `>"}]`,
		"query-block":                  `"return":[{"qdev":"` + evilJSON + `","inserted":{"node-name":"luksplug-vdb-payload-storage"}}]`,
		"query-fdsets":                 `"return":[{"fdset-id":1,"fds":[{"opaque":"luksplug-vdc-` + evilJSON + `"}]}]`,
		"query-chardev":                `"return":[{"label":"luksplug-vdc-` + evilJSON + `","filename":"` + evilJSON + `"}]`,
		"query-uuid":                   `"return":{"UUID":"0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"}`,
		"query-status":                 `"return":{"status":"running"}`,
		"query-name":                   `"return":{"name":"` + evilJSON + `"}`,
		"device_del":                   refused, "object-del": refused, "blockdev-del": refused, "blockdev-add": refused, "chardev-remove": refused,
		"query-qmp-schema": refused,
	}
}

// ran is the result of a command line.
type ran struct {
	code        int
	out, errors string
}

func runLine(t *testing.T, in string, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{streams: streams{in: strings.NewReader(in), out: &out, err: &errs}, uses: func() ([]hotplug.Use, error) { return nil, nil }}
	code := run(t.Context(), a, args)
	return ran{code, out.String(), errs.String()}
}

// TestEscapesQEMU: whatever a QEMU says, every command prints printable lines; its JSON is as it was.
func TestEscapesQEMU(t *testing.T) {
	t.Parallel()
	xml := filepath.Join(t.TempDir(), "disk.xml")
	image := filepath.Join(t.TempDir(), "image\u202e\u009b2J")
	must.OK(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	must.OK(t, os.WriteFile(xml, []byte("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='"+image+"'/><target dev='vdd' bus='virtio'/></disk>"), 0o600))
	config := filepath.Join(t.TempDir(), "none.yaml")
	must.OK(t, os.WriteFile(config, nil, 0o600))
	answering := monitor(t, evilQEMU())
	refusing := evilQEMU()
	refusing["query-named-block-nodes"] = refusing["device_del"]
	refuses := monitor(t, refusing)
	for _, command := range [][]string{
		{"list"}, {"list", "--all"}, {"repair"}, {"detach", "vdb"}, {"detach", "vdd"}, {"attach", xml}, {"plan", xml}, {"plan", "--output", "dot", xml},
	} {
		for address, name := range map[string]string{answering: "answers", refuses: "refuses"} {
			for _, verbose := range []string{"", "-v", "-vv"} {
				args := append([]string{"--qmp", address, "--config", config, "--timeout", "5s"}, command...)
				if verbose != "" {
					args = append(args, verbose)
				}
				r := runLine(t, "", args...)
				what := fmt.Sprintf("%s %v %s", name, command, verbose)
				wantPrintable(t, what+": standard output", r.out)
				wantPrintable(t, what+": standard error", r.errors)
				if name == "refuses" && r.code == exitDone {
					t.Errorf("%s: exit code %d\n%s", what, r.code, r.out)
				}
			}
		}
	}
	r := runLine(t, "", "--qmp", answering, "--config", config, "list", "--all")
	if want := `x\x1b[2J\x1b]0;title\a\u009b2J\u202e\x7f\r\t\nluksplug: FORGED`; strings.Count(r.out, want) < 4 {
		t.Errorf("it does not show what there is:\n%s", r.out)
	}
	var list struct {
		Nodes []struct {
			File string `json:"file"`
		} `json:"nodes"`
	}
	r = runLine(t, "", "--qmp", answering, "--config", config, "list", "--all", "--output", "json")
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || len(list.Nodes) != 4 || list.Nodes[0].File != evil {
		t.Errorf("JSON: %v\n%s", err, r.out)
	}
}

// TestEscapesTrace: a trace in a file is JSON, with the values as they were.
func TestEscapesTrace(t *testing.T) {
	t.Parallel()
	trace := filepath.Join(t.TempDir(), "trace")
	r := runLine(t, "", "--qmp", monitor(t, evilQEMU()), "--trace", trace, "list")
	found := false
	for line := range strings.Lines(string(must.Get(os.ReadFile(trace))(t))) {
		var entry struct {
			Message struct {
				Event string
				Data  map[string]string
			}
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			continue // a message of another form
		}
		found = found || entry.Message.Event == "RESUME" && entry.Message.Data["x"] == evil
	}
	if !found {
		t.Errorf("no event in the trace; exit code %d, %s", r.code, r.errors)
	}
}

// TestEscapesValues: the values that commands print, for which a QEMU, a domain or a store would have to be found.
func TestEscapesValues(t *testing.T) {
	t.Parallel()
	disk := hotplug.AttachedDisk{Target: "vdb" + evil, Device: evil, Driver: "virtio-blk-pci", Payload: evil, Header: evil, Serial: evil, Bus: evil, Address: evil, Nodes: []string{evil}, Unlock: blockgraph.MethodEphemeralHeader, Files: []string{evil}}
	leftover := disk
	leftover.Device = ""
	attached := &hotplug.Attached{AttachedDisk: disk, Cleared: []string{evil},
		Steps: []hotplug.StepReport{{Step: blockgraph.Step{Subject: evil}}}}
	states := []libvirtvm.State{{Target: evil, Live: true}}
	document := secrets.Document{Description: "d\u202e", UsageType: secrets.UsageVolume, Usage: evil}
	for name, show := range map[string]func(a *app) error{
		"attach": func(a *app) error { return a.show(attachedText(attached, flags{verbose: 1}, ""), nil) },
		"detach": func(a *app) error {
			return a.show(detachedText(&libvirtvm.Detached{Detached: hotplug.Detached{Target: "vdb", Removed: []string{evil}}}, evil, true), nil)
		},
		"detach, off": func(a *app) error {
			return a.show(detachedText(&libvirtvm.Detached{Detached: hotplug.Detached{Target: "vdb", Removed: []string{evil}}, Off: true}, evil, true), nil)
		},
		"list": func(a *app) error {
			return showDisks(a, &libvirtvm.Listing{Disks: []*hotplug.AttachedDisk{&disk, &leftover}, States: states}, nil)
		},
		"list, off": func(a *app) error {
			return showDisks(a, &libvirtvm.Listing{Off: true, States: []libvirtvm.State{{Target: evil, Off: true, Payload: evil, Header: evil}}}, nil)
		},
		"list all": func(a *app) error {
			return showNodes(a, &hotplug.State{Nodes: []hotplug.Node{{Name: evil, Driver: evil, File: evil}}})
		},
		"repair": func(a *app) error {
			return showRepaired(a, &libvirtvm.Repaired{Removed: []*hotplug.AttachedDisk{&leftover}, Fixed: states})
		},
		"secret list": func(a *app) error { return showSecrets(a, []found{{namedStore{}, document}}, nil, "") },
		"note":        func(a *app) error { return a.note("waiting for %s", evil) },
	} {
		var out, errs bytes.Buffer
		a := &app{streams: streams{out: &out, err: &errs}.escaped(), flags: flags{output: "text"}}
		must.OK(t, show(a))
		wantPrintable(t, name, out.String()+errs.String())
		if !strings.Contains(out.String()+errs.String(), `\nluksplug: FORGED`) {
			t.Errorf("%s does not show the text:\n%s%s", name, &out, &errs)
		}
	}
	if xml := printableXML(string(document.XML())); !strings.Contains(xml, "<description>d&#x202e;</description>") {
		t.Errorf("a document: %q", xml)
	}
}

// namedStore is a key store with a name of its server's.
type namedStore struct{ secrets.Store }

func (namedStore) String() string { return evil }

// TestEscapesLog: log entries in colours have the program's own sequences and no others.
func TestEscapesLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	coloured := textLog(true).(colouredLog)
	coloured.ForceColors = true
	log.SetFormatter(coloured)
	log.WithField("disk", evil).Warn(evil)
	text := out.String()
	own := strings.NewReplacer("\x1b[33m", "", "\x1b[0m", "").Replace(text)
	if own == text {
		t.Errorf("no colours: %q", text)
	}
	wantPrintable(t, "a coloured log", own)
	out.Reset()
	log.SetFormatter(textLog(false))
	log.WithField("disk", evil).Warn(evil)
	wantPrintable(t, "a log", out.String())
	out.Reset()
	log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339})
	log.Warn(evil)
	var entry struct{ Msg string }
	if err := json.Unmarshal(out.Bytes(), &entry); err != nil || entry.Msg != evil {
		t.Errorf("a log in JSON: %v, %q", err, out.String())
	}
}

// TestEscapesHook: the hook's standard error, which libvirt shows to its users, and its log.
func TestEscapesHook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config, log := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "hook.log")
	must.OK(t, os.WriteFile(config, []byte("hook:\n  log: "+log+"\n"), 0o600))
	for _, operation := range []string{"prepare", "start", "release", "migrate"} {
		r := runLine(t, "<domain type='kvm'><name>"+evil, "--config", config, "hook", "--", "vm"+evil, operation, "begin", "-")
		wantPrintable(t, operation+": standard error", r.errors)
		wantPrintable(t, operation+": standard output", r.out)
		if operation == "prepare" && (r.code == exitDone || strings.Count(r.errors, "\n") != 1) {
			t.Errorf("exit code %d: %q", r.code, r.errors)
		}
	}
	text := string(must.Get(os.ReadFile(log))(t))
	wantPrintable(t, "the log", text)
	if !strings.Contains(text, "FORGED") {
		t.Errorf("the log does not show the domain:\n%s", text)
	}
}

// TestEscapesArguments: the arguments of a command line, in its errors.
func TestEscapesArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{evil}, {"--" + evil}, {"--output", evil, "list"}, {"--qmp", "/nonexistent/" + evil, "list"}, {"plan", "/nonexistent/" + evil},
		{"--domain", evil, "--connect", "qemu+tcp://127.0.0.1:1/system", "list"}, {"--connect", evil, "--domain", "x", "list"},
		{"--keystore", evil, "secret", "list"}, {"--config", evil, "secret", "list"}, {"help", evil},
	} {
		r := runLine(t, "", args...)
		wantPrintable(t, fmt.Sprintf("%q: standard error", args), r.errors)
		wantPrintable(t, fmt.Sprintf("%q: standard output", args), r.out)
		if r.code == exitDone && args[0] != "help" {
			t.Errorf("%q: exit code 0", args)
		}
	}
}
