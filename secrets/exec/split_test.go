package exec_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/exec"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for command, want := range map[string][]string{
		"a":                  {"a"},
		"  a\tb  c\n":        {"a", "b", "c"},
		`a 'b  c' "d  e"`:    {"a", "b  c", "d  e"},
		`a'b'"c"d`:           {"abcd"},
		`a '' ""`:            {"a", "", ""},
		`a '\n"$x' "\"\\\n"`: {"a", `\n"$x`, `"\\n`},
		"a $x * | ; > ~":     {"a", "$x", "*", "|", ";", ">", "~"},
		` ["a b", "c\""]`:    {"a b", `c"`},
		`'[' x`:              {"[", "x"},
	} {
		got, err := exec.Split(command)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", command, got, err)
		}
	}
	for _, command := range []string{"", "  ", "''", "a 'b", `a "b\"`, `a\ b`, "[", "[]", `[""]`, `[1]`, `["a"] b`, "a\x00", `["a\u0000"]`} {
		if got, err := exec.Split(command); !errors.Is(err, exec.ErrInvalidCommand) || got != nil {
			t.Errorf("%q: %q, %v", command, got, err)
		}
	}
}

// FuzzSplit checks that a JSON array can express any words.
func FuzzSplit(f *testing.F) {
	f.Add("a", "b 'c")
	f.Fuzz(func(t *testing.T, a, b string) {
		command := must.Get(json.Marshal([]string{a, b}))(t)
		var want []string
		if err := json.Unmarshal(command, &want); err != nil { // invalid UTF-8 was replaced
			t.Fatal(err)
		}
		got, err := exec.Split(string(command))
		if err == nil && !slices.Equal(got, want) {
			t.Errorf("%s: %q", command, got)
		}
		_, _ = exec.Split(a) // must not panic
	})
}
