package qmp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]struct {
		arguments Object
		style     idStyle
	}{
		`{"execute":"x","id":7}`:                       {nil, numericID},
		`{"execute":"x","id":"7"}`:                     {Object{}, stringID},
		`{"execute":"x","arguments":{"a":1}}`:          {Object{{"a", 1}}, noID},
		`{"execute":"x","arguments":{"a":"s"},"id":7}`: {Object{{"a", NewSensitive([]byte("s"))}}, numericID},
	} {
		c, err := newCall(Command{Execute: "x", Arguments: test.arguments}, 7, test.style, true)
		must.OK(t, err)
		if string(c.wire) != want+"\n" || string(c.shown) != strings.Replace(want, `"s"`, `"[redacted]"`, 1) {
			t.Errorf("%s shown as %s, want %s", c.wire, c.shown, want)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	t.Parallel()
	for want, cmd := range map[string]Command{
		`x: cannot encode QMP command: argument "a.b[0]" has type struct {}`: {Execute: "x", Arguments: Object{{"a", Object{{"b", []any{struct{}{}}}}}}},
		`cannot encode QMP command: it has no name`:                          {},
	} {
		if _, err := newCall(cmd, 1, numericID, true); !errors.Is(err, ErrEncode) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

func TestScrub(t *testing.T) {
	t.Parallel()
	secrets := longestFirst([][]byte{[]byte("ab"), []byte("abcd"), []byte(`q"é`)})
	for in, want := range map[string]string{
		`{"a": "x"}`:                     `{"a": "x"}`,
		`{"a": "xabcdy", "n": [1,"ab"]}`: `{"a": "x[redacted]y", "n": [1,"[redacted]"]}`,
		`["q\"\u00e9", "\u0061b", "\\"]`: `["[redacted]", "[redacted]", "\\"]`,
		`{}`:                             `{}`,
		`"ab`:                            `"ab`, // no JSON; never delivered
	} {
		if got := string(scrubJSON([]byte(in), secrets)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	err := scrubError(fmt.Errorf("bad abcd: %w", ErrClosed), secrets)
	if err.Error() != "bad [redacted]: QMP client is closed" || errors.Unwrap(err) != nil {
		t.Errorf("%v", err)
	}
	if !errors.Is(scrubError(ErrClosed, secrets), ErrClosed) || scrubError(nil, secrets) != nil {
		t.Error("an error without a secret was changed")
	}
}

// The buffer that carried a secret is cleared.
func TestWireIsWiped(t *testing.T) {
	t.Parallel()
	c, err := newCall(Command{Execute: "x", Arguments: Object{{"data", NewSensitive([]byte("c2VjcmV0"))}}}, 1, numericID, false)
	must.OK(t, err)
	if !bytes.Contains(c.wire, []byte("c2VjcmV0")) {
		t.Error("the secret is not sent")
	}
	c.wipe()
	if bytes.Contains(c.wire, []byte("c2VjcmV0")) {
		t.Error("the wire buffer keeps the secret")
	}
}
