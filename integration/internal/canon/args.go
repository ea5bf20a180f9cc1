package canon

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// option is an option of QEMU with its value.
type option struct{ name, value string }

// parseArguments reads libvirt's command line of a domain: variables, the program and its options.
func parseArguments(text string) ([]option, error) {
	words, err := splitWords(text)
	if err != nil {
		return nil, err
	}
	var out []option
	for i, w := range words {
		switch {
		case !strings.HasPrefix(w, "-"):
		case i+1 < len(words) && !strings.HasPrefix(words[i+1], "-"):
			out = append(out, option{w, words[i+1]})
		default:
			out = append(out, option{w, ""})
		}
	}
	return out, nil
}

// splitWords has a POSIX shell split text into words. libvirt quotes what a shell would expand.
func splitWords(text string) ([]string, error) {
	out, err := exec.Command("/bin/sh", "-f", "-c", "set -- "+text+"\nprintf '%s\\0' \"$@\"").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("split the arguments into words: %w: %s", err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"), nil
}

// decode reads the value of an option: JSON, or "first,key=value,...".
func decode(value string) (map[string]any, error) {
	if strings.HasPrefix(value, "{") {
		out := map[string]any{}
		d := json.NewDecoder(strings.NewReader(value))
		d.UseNumber()
		if err := d.Decode(&out); err != nil {
			return nil, fmt.Errorf("decode %s: %w", value, err)
		}
		return out, nil
	}
	out := map[string]any{}
	const comma = "\x00" // stands for a doubled comma
	for i, part := range strings.Split(strings.ReplaceAll(value, ",,", comma), ",") {
		part = strings.ReplaceAll(part, comma, ",")
		switch key, val, ok := strings.Cut(part, "="); {
		case ok:
			out[key] = val
		case i == 0:
			out["driver"] = part
		default:
			out[part] = "on"
		}
	}
	return out, nil
}
