package qapi

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"size":1}`: "", `{"size":"x"}`: "the member size has an unexpected string", `[1]`: "it has an unexpected array",
		`{"size":`: "it is not valid JSON at byte 8", `x`: "it is not valid JSON at byte 1", ``: "it is not valid JSON at byte 0",
	} {
		var into struct {
			Size int `json:"size"`
		}
		err := Unmarshal([]byte(text), &into)
		if err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		var kind *json.UnmarshalTypeError
		var syntax *json.SyntaxError
		if err != nil && !errors.As(err, &kind) && !errors.As(err, &syntax) {
			t.Errorf("%s: %v wraps no error of package json", text, err)
		}
	}
}
