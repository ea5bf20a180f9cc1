package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrName reports that a "json:" name is not that of a volume in files of this host.
var ErrName = errors.New("it is not the name of a volume in files of this host")

// ParseName returns the image and the header of a volume that is named as QEMU's documents name one with a detached
// header (qemu-img(1), "json:", and the example for a detached header in its block driver reference): "json:" and a node of the driver luks, with its
// nodes "file" and "header", or of raw, qcow2 or file. Members may be nested, or flat as in "file.filename". The error
// wraps [ErrName].
func ParseName(name string) (path, header string, err error) {
	text, ok := strings.CutPrefix(name, "json:")
	var nested map[string]any
	if !ok || json.Unmarshal([]byte(text), &nested) != nil {
		return "", "", fmt.Errorf("%w: it is no JSON object after %q", ErrName, "json:")
	}
	flat := map[string]string{}
	flatten(flat, "", nested)
	if path, err = storage(flat, ""); err != nil {
		return "", "", err
	}
	for k := range flat {
		if strings.HasPrefix(k, "header.") || k == "header" {
			header, err = storage(flat, "header.")
			break
		}
	}
	return path, header, err
}

// flatten writes the members of an object with their paths, joined by dots.
func flatten(to map[string]string, prefix string, from map[string]any) {
	for k, v := range from {
		switch v := v.(type) {
		case map[string]any:
			flatten(to, prefix+k+".", v)
		case string:
			to[prefix+k] = v
		default:
			to[prefix+k] = fmt.Sprint(v)
		}
	}
}

// storage returns the file below the node whose members begin with prefix.
func storage(flat map[string]string, prefix string) (string, error) {
	for {
		if path, ok := flat[prefix+"filename"]; ok {
			if d := flat[prefix+"driver"]; d != "" && d != "file" && d != "host_device" {
				return "", fmt.Errorf("%w: its storage has the driver %q: only files and block devices of this host are read", ErrName, d)
			}
			return path, nil
		}
		switch d := flat[prefix+"driver"]; d {
		case "luks", "qcow2", "raw", "":
		default:
			return "", fmt.Errorf("%w: the driver %q", ErrName, d)
		}
		if node, ok := flat[prefix+"file"]; ok {
			return "", fmt.Errorf("%w: %q is the name of a node of a QEMU", ErrName, node)
		}
		next := prefix + "file."
		if !has(flat, next) {
			return "", fmt.Errorf("%w: %q has neither a filename nor a file", ErrName, strings.TrimSuffix(prefix, "."))
		}
		prefix = next
	}
}

func has(flat map[string]string, prefix string) bool {
	for k := range flat {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}
