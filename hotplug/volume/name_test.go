package volume_test

import (
	"errors"
	"testing"

	"github.com/luksplug/luksplug/hotplug/volume"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]string{
		`json:{"driver":"luks","file":{"driver":"file","filename":"/a"},"header":{"driver":"file","filename":"/h"}}`:               {"/a", "/h"},
		`json:{"driver":"luks","file.driver":"file","file.filename":"/a","header.filename":"/h","key-secret":"s"}`:                 {"/a", "/h"},
		`json:{"driver":"luks","file":{"driver":"qcow2","file":{"filename":"/a"}},"header":{"driver":"raw","file.filename":"/h"}}`: {"/a", "/h"},
		`json:{"driver":"qcow2","encrypt.format":"luks","file":{"driver":"host_device","filename":"/dev/vg/a"}}`:                   {"/dev/vg/a", ""},
		`json:{"filename":"/a"}`: {"/a", ""},
	} {
		path, header, err := volume.ParseName(name)
		if err != nil || path != want[0] || header != want[1] {
			t.Errorf("%s: %q, %q, %v", name, path, header, err)
		}
	}
	for _, name := range []string{
		"/a", "json:", "json:[]", `json:{}`, `json:{"driver":"luks","file":"node0"}`, `json:{"driver":"nbd","filename":"/a"}`,
		`json:{"driver":"luks","file":{"driver":"rbd","image":"a"}}`, `json:{"driver":"luks","file":{"filename":"/a"},"header":"node1"}`,
	} {
		if path, header, err := volume.ParseName(name); !errors.Is(err, volume.ErrName) {
			t.Errorf("%s: %q, %q, %v", name, path, header, err)
		}
	}
}
