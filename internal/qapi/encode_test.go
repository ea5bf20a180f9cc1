package qapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/internal/must"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	args := Object{
		{"z", nil}, {"b", true}, {"s", "a\"\\\n\x01\x7fé<>&"}, {"i", []any{int(-1), int8(-8), int16(-16), int32(-32), int64(math.MinInt64)}},
		{"u", []any{uint(1), uint8(8), uint16(16), uint32(32), uint64(math.MaxUint64)}}, {"f", []any{1.5, 1e300, float64(5)}},
		{"n", json.Number("12345678901234567890")}, {"o", Object{{"y", 1}, {"x", Object{}}}}, {"m", map[string]any{"b": 1, "a": 2}},
		{"l", []string{"p", "q"}}, {"r", json.RawMessage("{ \"k\":\n 1 }")}, {"secret", NewSensitive([]byte(`c2V"j`))},
	}
	want := `{"z":null,"b":true,"s":"a\"\\\n\u0001\u007fé\u003c\u003e\u0026","i":[-1,-8,-16,-32,-9223372036854775808],` +
		`"u":[1,8,16,32,18446744073709551615],"f":[1.5,1e+300,5],"n":12345678901234567890,"o":{"y":1,"x":{}},"m":{"a":2,"b":1},` +
		`"l":["p","q"],"r":{"k":1},"secret":"c2V\"j"}` + "\n"
	got, secrets, err := Line(args)
	must.OK(t, err)
	if string(got) != want || len(secrets) != 1 || string(secrets[0]) != `c2V"j` {
		t.Errorf("got  %s %q\nwant %s", got, secrets, want)
	}
	if !json.Valid(got) {
		t.Error("not JSON")
	}
}

func TestEncodeErrors(t *testing.T) {
	t.Parallel()
	loop := map[string]any{}
	loop["in"] = []any{loop}
	type hidden struct{ S Sensitive }
	for name, test := range map[string]struct {
		value any
		path  string
	}{
		"struct":       {hidden{NewSensitive([]byte("x"))}, `"a"`},
		"pointer":      {new(int), `"a"`},
		"bytes":        {[]byte("x"), `"a"`},
		"named string": {time.Duration(1), `"a"`},
		"deep":         {Object{{"b", []any{1, Object{{"c", struct{}{}}}}}}, `"a.b[1].c"`},
		"invalid text": {"\xff", `"a"`},
		"invalid name": {Object{{"\xff", 1}}, `"a.`},
		"twice":        {Object{{"b", 1}, {"b", 1}}, `"a.b"`},
		"NaN":          {math.NaN(), `"a"`},
		"number":       {json.Number("0x10"), `"a"`},
		"number list":  {json.Number("1,2"), `"a"`},
		"empty number": {json.Number(""), `"a"`},
		"raw":          {json.RawMessage(`{"x":`), `"a"`},
		"raw text":     {json.RawMessage("\"\xff\""), `"a"`},
		"zero secret":  {Sensitive{}, `"a"`},
		"placeholder":  {placeholder{}, `"a"`},
		"secret text":  {NewSensitive([]byte{0xff}), `"a"`},
		"loop":         {loop, `"a.in`},
	} {
		_, _, err := Line(Object{{"a", test.value}})
		var fault *EncodeError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, secret := test.value.(Sensitive); !secret && name != "placeholder" && !strings.HasPrefix(Object{{"a", test.value}}.String(), "invalid object: argument ") {
			t.Errorf("%s is shown", name)
		}
	}
}

type placeholder struct{ Placeholder }

// A placeholder is shown, and never sent.
func TestPlaceholder(t *testing.T) {
	t.Parallel()
	if got := (Object{{"data", placeholder{}}}).String(); got != `{"data":"[redacted]"}` {
		t.Error(got)
	}
}

// No rendering but that for the wire shows a Sensitive.
func TestSensitiveRenderings(t *testing.T) {
	t.Parallel()
	const value = "dGhlIHNlY3JldA=="
	s := NewSensitive([]byte(value))
	foreign := struct {
		Public  Sensitive
		private Sensitive
		object  Object
	}{s, s, Object{{"data", s}}}
	var out strings.Builder
	for _, verb := range "vsdqxXtbcoOUeEfFgGpwT" {
		for _, flags := range []string{"", "+", "#", "-20", "020", " "} {
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", s)
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", foreign)
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", &foreign)
		}
	}
	fmt.Fprintln(&out, s.String(), s.GoString(), foreign.object, Object{{"nested", foreign.object}})
	for _, v := range []any{s, &s, foreign, foreign.object, map[string]any{"x": s}} {
		text, err := json.Marshal(v)
		must.OK(t, err)
		out.Write(text)
	}
	text, err := s.MarshalText()
	must.OK(t, err)
	out.Write(text)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "o", foreign.object, "f", foreign)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s, "o", foreign.object, "f", foreign)
	for _, formatter := range []logrus.Formatter{&logrus.TextFormatter{}, &logrus.JSONFormatter{}} {
		log := logrus.New()
		log.Out, log.Formatter = &out, formatter
		log.WithField("s", s).WithField("o", foreign.object).WithField("f", foreign).Error(s)
	}
	const decimal = "100 71 104 108" // how fmt shows the bytes of "dGhl"
	for _, form := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), decimal} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q shows in:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), Redacted) {
		t.Error("nothing says redacted")
	}
}

// The buffer that carried a secret is cleared, its outgrown copies as well.
func TestWireIsWiped(t *testing.T) {
	t.Parallel()
	args := Object{{"data", NewSensitive([]byte("c2VjcmV0"))}}
	for range 200 {
		args = append(args, Member{fmt.Sprint("n", len(args)), []any{1, 2, 3}})
	}
	e := encoder{}
	if err := e.object(args[:1], 0); err != nil {
		t.Fatal(err)
	}
	first := e.buf
	if err := e.object(args[1:], 0); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(first[:cap(first)], []byte("c2VjcmV0")) && &first[0] != &e.buf[0] {
		t.Error("a copy was left behind")
	}
}
