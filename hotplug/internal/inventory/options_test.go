package inventory

import (
	"maps"
	"testing"
)

// TestImageName uses the answers of QEMU 10.0.2.
func TestImageName(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"/images/a.raw":              "/images/a.raw",
		"nbd://127.0.0.1:10809/disk": "nbd://127.0.0.1:10809/disk",
		`json:{"password-secret": "s", "lun": 1, "portal": "127.0.0.1:3260", "driver": "iscsi", "transport": "tcp", "user": "vm1", "target": "iqn.2026-01.example:disks"}`: "iscsi://127.0.0.1:3260/iqn.2026-01.example:disks/1",
		`json:{"url": "https://a/b", "cookie-secret": "s", "driver": "https", "sslverify": true}`:                                                                          "https://a/b",
		`json:{"driver": "rbd", "pool": "p", "image": "i", "snapshot": "s", "server.0.host": "a"}`:                                                                         "rbd:p/i@s",
		`json:{"driver": "quorum"}`: `json:{"driver": "quorum"}`,
		"json:{":                    "json:{",
	} {
		if got := ImageName(file); got != want {
			t.Errorf("%s is named %s, want %s", file, got, want)
		}
	}
}

// TestOwnOptions: a node's own options do not include those of its children.
func TestOwnOptions(t *testing.T) {
	t.Parallel()
	luks := ParseOptions(`json:{"driver": "luks", "key-secret": "k", "header": "/h", "file": {"server.port": "1", "driver": "nbd", "server": {"host": "a"}}}`)
	if own, want := luks.Own(), (Options{"driver": "luks", "key-secret": "k"}); !maps.Equal(own, want) {
		t.Errorf("of the node itself: %v, want %v", own, want)
	}
	if below, want := luks.Below("file"), (Options{"driver": "nbd", "server.host": "a", "server.port": "1"}); !maps.Equal(below, want) {
		t.Errorf("of its file: %v, want %v", below, want)
	}
	if below := luks.Below("header"); below != nil {
		t.Errorf("of a file that is named only: %v", below)
	}
	qcow2 := ParseOptions(`json:{"driver": "qcow2", "encrypt": {"format": "luks"}, "backing": null, "file": "/f"}`)
	if own, want := qcow2.Own(), (Options{"driver": "qcow2", "encrypt.format": "luks"}); !maps.Equal(own, want) {
		t.Errorf("of the node itself: %v, want %v", own, want)
	}
}
