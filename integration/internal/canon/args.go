package canon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// option is one option of QEMU's with its value.
type option struct{ name, value string }

// parseArguments reads the text that libvirt makes of a domain: a line for a
// shell, with variables, the program and its options.
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

// splitWords takes text apart like a POSIX shell, as far as libvirt's text needs
// it: quotes of both kinds and backslashes.
func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			if c != '\n' {
				word.WriteRune(c)
				inWord = true
			}
			escaped = false
		case c == '\\' && quote != '\'':
			escaped = true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\n' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("the text ends within quotes")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// decode reads the value of an option: JSON, or "first,key=value,...".
func decode(value string) (map[string]any, error) {
	if strings.HasPrefix(value, "{") {
		out := map[string]any{}
		d := json.NewDecoder(bytes.NewReader([]byte(value)))
		d.UseNumber()
		if err := d.Decode(&out); err != nil {
			return nil, fmt.Errorf("decode %s: %w", value, err)
		}
		return out, nil
	}
	out := map[string]any{}
	const comma = "\x00" // stands for one that is doubled
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
