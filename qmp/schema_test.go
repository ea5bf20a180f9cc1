package qmp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// checkRealSchema queries the schema of a real QEMU 10.
func checkRealSchema(t *testing.T, s *Schema) {
	t.Helper()
	for _, test := range []struct {
		command, path string
		want          bool
	}{
		{"blockdev-add", "", true},
		{"no-such-command", "", false},
		{"no-such-command", "x", false},
		{"blockdev-add", "luks", true},
		{"blockdev-add", "luks.header", true},
		{"blockdev-add", "luks.header.file.filename", true}, // through the alternate BlockdevRef
		{"blockdev-add", "luks.hdr", false},
		{"blockdev-add", "raw.header", false},
		{"blockdev-add", "no-such-driver", false},
		{"blockdev-add", "node-name", true},
		{"blockdev-add", "node-name.x", false},
		{"blockdev-add", "luks.node-name", true}, // common members belong to each variant
		{"blockdev-add", "discard.unmap", true},
		{"blockdev-add", "discard.maybe", false},
		{"blockdev-add", "file.filename", true}, // "file" the driver, not a member
		{"blockdev-add", "qcow2.encrypt.luks.key-secret", true},
		{"blockdev-add", "quorum.children.file.filename", true}, // through an array
		{"object-add", "secret.data", true},
		{"object-add", "secret.nothing", false},
		{"device_add", "driver", true},
		{"device_add", "drive", false},
		{"blockdev-add", "file.$dynamic-auto-read-only", true},
		{"blockdev-add", "file.$no-such-feature", false},
		{"blockdev-add", "$dynamic-auto-read-only", false},
		{"blockdev-add", "file.$dynamic-auto-read-only.x", false},
	} {
		if got := s.Supports(test.command, test.path); got != test.want {
			t.Errorf("Supports(%q, %q) = %v", test.command, test.path, got)
		}
	}
	if !s.HasEvent("DEVICE_DELETED") || s.HasEvent("NOTHING") {
		t.Error("HasEvent")
	}
	for _, test := range validations {
		err := s.Validate(test.command, test.args)
		if test.path == "" && !test.unknownCommand {
			if err != nil {
				t.Errorf("%s %v: %v", test.command, test.args, err)
			}
			continue
		}
		fault, ok := qmptest.ErrorAs[*ArgumentError](err)
		if !ok || fault.Command != test.command || fault.Path != test.path || !strings.Contains(fault.Reason, test.reason) {
			t.Errorf("%s %v: %v; want %q %q", test.command, test.args, err, test.path, test.reason)
		}
	}
}

// validations are commands for Validate. Those with a path must fail there, and
// a real QEMU must refuse them as well; the others must pass.
var validations = []struct {
	command        string
	args           Object
	path, reason   string
	unknownCommand bool
}{
	{command: "query-status"},
	{command: "query-named-block-nodes", args: Object{{"flat", true}}},
	{command: "blockdev-add", args: Object{{"driver", "luks"}, {"node-name", "l"}, {"file", "p"}, {"header", "h"}, {"key-secret", "s"}}},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", Object{{"driver", "null-co"}, {"size", 5}}}}},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", map[string]any{"driver": "null-co", "size": uint64(1024)}}, {"offset", int8(0)}}},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", json.RawMessage(`{"driver":"null-co","size":512}`)}}},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"backing", nil}}},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"encrypt", Object{{"format", "luks"}, {"key-secret", "s"}}}}},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"overlap-check", "all"}}},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"overlap-check", Object{{"template", "none"}, {"main-header", true}}}}},
	{command: "blockdev-add", args: Object{{"driver", "quorum"}, {"vote-threshold", 1}, {"children", []string{"a", "b"}}}},
	{command: "object-add", args: Object{{"qom-type", "secret"}, {"id", "v0"}, {"data", NewSensitive([]byte("c2VjcmV0"))}, {"format", "base64"}}},
	{command: "device_add", args: Object{{"driver", "virtio-blk-pci"}, {"drive", "x"}, {"bootindex", 1}}},
	{command: "block_set_io_throttle", args: Object{{"id", "x"}, {"bps", json.Number("1")}, {"bps_rd", float64(0)}, {"bps_wr", 0}, {"iops", 0}, {"iops_rd", 0}, {"iops_wr", 0}}},

	{command: "no-such-command", reason: "no such command", unknownCommand: true},
	{command: "query-status", args: Object{{"x", 1}}, path: "x", reason: "not known"},
	{command: "blockdev-add", path: "driver", reason: "missing"},
	{command: "blockdev-add", args: Object{{"driver", "lux"}}, path: "driver", reason: `"lux"`},
	{command: "blockdev-add", args: Object{{"driver", 5}}, path: "driver", reason: "is int"},
	{command: "blockdev-add", args: Object{{"driver", "luks"}}, path: "file", reason: "missing"},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", "x"}, {"header", "h"}}, path: "header", reason: "not known"},
	{command: "blockdev-add", args: Object{{"driver", "null-co"}, {"node-name", 5}}, path: "node-name", reason: "QEMU wants string"},
	{command: "blockdev-add", args: Object{{"driver", "null-co"}, {"size", "5"}}, path: "size", reason: "is string, QEMU wants int"},
	{command: "blockdev-add", args: Object{{"driver", "null-co"}, {"size", 1.5}}, path: "size", reason: "is number"},
	{command: "blockdev-add", args: Object{{"driver", "null-co"}, {"read-only", "yes"}}, path: "read-only", reason: "boolean"},
	{command: "blockdev-add", args: Object{{"driver", "null-co"}, {"discard", "perhaps"}}, path: "discard", reason: "ignore, unmap"},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", 7}}, path: "file", reason: "one of: object, string"},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", nil}}, path: "file", reason: "is null"},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", Object{{"driver", "file"}}}}, path: "file.filename", reason: "missing"},
	{command: "blockdev-add", args: Object{{"driver", "raw"}, {"file", json.RawMessage(`{"driver":"file"}`)}}, path: "file.filename", reason: "missing"},
	{command: "blockdev-add", args: Object{{"driver", "quorum"}, {"vote-threshold", 1}, {"children", []any{"a", 2}}}, path: "children[1]", reason: "is int"},
	{command: "blockdev-add", args: Object{{"driver", "quorum"}, {"vote-threshold", 1}, {"children", "a"}}, path: "children", reason: "wants an array"},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"encrypt", Object{{"format", "luks"}, {"password", "s"}}}}, path: "encrypt.password", reason: "not known"},
	{command: "blockdev-add", args: Object{{"driver", "qcow2"}, {"file", "x"}, {"overlap-check", "some"}}, path: "overlap-check", reason: `"some"`},
	{command: "object-add", args: Object{{"qom-type", "secret"}, {"data", "x"}}, path: "id", reason: "missing"},
	{command: "device_add", args: Object{{"id", "x"}}, path: "driver", reason: "missing"},
}

// Faults that never reach QEMU, because they cannot be encoded.
func TestValidateUnsendable(t *testing.T) {
	t.Parallel()
	s, err := ParseSchema([]byte(`[
		{"name":"c","meta-type":"command","arg-type":"0","ret-type":"1"},
		{"name":"0","meta-type":"object","members":[{"name":"v","type":"any"},{"name":"o","type":"0","default":null}]},
		{"name":"1","meta-type":"object","members":[]},
		{"name":"any","meta-type":"builtin","json-type":"value"}]`))
	must.OK(t, err)
	for _, test := range []struct {
		args         Object
		path, reason string
	}{
		{Object{{"v", 1}, {"v", 2}}, "v", "twice"},
		{Object{{"v", struct{}{}}}, "v", "has type struct {}"},
		{Object{{"v", json.RawMessage(`{`)}}, "v", "no JSON"},
		{Object{{"v", 1}, {"o", Object{{"v", 1}, {"o", 1}}}}, "o.o", "is int"},
	} {
		fault, ok := qmptest.ErrorAs[*ArgumentError](s.Validate("c", test.args))
		if !ok || fault.Path != test.path || !strings.Contains(fault.Reason, test.reason) {
			t.Errorf("%v: %v", test.args, fault)
		}
	}
	loop := map[string]any{"v": 1}
	loop["o"] = loop
	if fault, ok := qmptest.ErrorAs[*ArgumentError](s.Validate("c", Object{{"v", 1}, {"o", loop}})); !ok || !strings.Contains(fault.Reason, "nested") {
		t.Errorf("an object in itself: %v", fault)
	}
}

func TestParseSchemaErrors(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON":           `[`,
		"no list":           `{}`,
		"missing type":      `[{"name":"c","meta-type":"command","arg-type":"9"}]`,
		"new meta-type":     `[{"name":"c","meta-type":"union"}]`,
		"array of arrays":   `[{"name":"a","meta-type":"array","element-type":"a"}]`,
		"nested alternates": `[{"name":"a","meta-type":"alternate","members":[{"type":"a"}]}]`,
		"arguments no object": `[{"name":"c","meta-type":"command","arg-type":"s"},
			{"name":"s","meta-type":"builtin","json-type":"string"}]`,
		"tag is no member": `[{"name":"o","meta-type":"object","members":[],"tag":"t","variants":[]}]`,
	} {
		if _, err := ParseSchema([]byte(text)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
