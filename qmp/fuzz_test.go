package qmp

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/qapi"
)

// FuzzStream feeds bytes to the framing and the reply parser, cut into reads of
// all sizes: no panic, no hang, and the same messages however they are cut.
func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		fakeGreeting + "\r\n" + strayEvent + "\r\n" + `{"return":{},"id":1}` + "\n",
		`{"error":{"class":"GenericError","desc":"x"},"id":2}` + "\n\n\n",
		`{"return":"` + strings.Repeat("y", 70<<10) + `","id":"3"}` + "\n{",
		"{\n    \"return\": [\n        \"a}\\\"\"\n    ]\n}\n{\n    \"event\": \"E\"\n}\n",
		"null\n", "{}\n", `{"id":1e3,"return":null}` + "\n", "\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		read := func(size int) []message {
			var all []message
			messages := newMessageReader(&shortReader{bytes.NewReader(stream), size}, DefaultLineLimit)
			for {
				text, err := messages.next()
				if err != nil {
					return all
				}
				m, err := parseMessage(text)
				if err != nil {
					return all // as a connection ends
				}
				clear(text) // a message must not share it
				m.callID()
				m.scrub([][]byte{[]byte("ab"), []byte(`"`)})
				if m.Event == "" && m.Greeting == nil && !json.Valid(m.line()) {
					t.Errorf("the trace shows %q", m.line())
				}
				all = append(all, m)
			}
		}
		whole, pieces := read(len(stream)+1), read(int(cut)+1)
		a, _ := json.Marshal(whole)
		b, _ := json.Marshal(pieces)
		if !bytes.Equal(a, b) {
			t.Errorf("%s\nbecomes\n%s", a, b)
		}
	})
}

type shortReader struct {
	from *bytes.Reader
	size int
}

func (r *shortReader) Read(p []byte) (int, error) { return r.from.Read(p[:min(len(p), r.size)]) }

// FuzzParseSchema: every parsed schema can be queried and validated against without panic or endless recursion.
func FuzzParseSchema(f *testing.F) {
	f.Add([]byte(`[{"name":"c","meta-type":"command","arg-type":"0","ret-type":"0"},
		{"name":"0","meta-type":"object","tag":"t","members":[{"name":"t","type":"e"},{"name":"l","type":"[a]","default":null}],
		 "variants":[{"case":"x","type":"0"},{"case":"y","type":"1"}]},
		{"name":"1","meta-type":"object","members":[{"name":"o","type":"0","default":null}]},
		{"name":"e","meta-type":"enum","values":["x"],"members":[{"name":"y"}]},
		{"name":"[a]","meta-type":"array","element-type":"a"},
		{"name":"a","meta-type":"alternate","members":[{"type":"0"},{"type":"s"},{"type":"[a]"}]},
		{"name":"s","meta-type":"builtin","json-type":"string"}]`), "x.l.o.t.y", `{"t":"x","l":["a",{"t":"y","o":{"t":"x"}}]}`)
	f.Add([]byte(`[]`), "", `{}`)
	f.Fuzz(func(t *testing.T, data []byte, path, args string) {
		s, err := ParseSchema(data)
		if err != nil {
			return
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(args), &members); err != nil {
			members = nil
		}
		for name := range s.commands {
			s.Supports(name, path)
			if err := s.Validate(name, qapi.Sorted(members)); err != nil && err.Error() == "" {
				t.Error("an error without text")
			}
		}
	})
}

// FuzzEncode: the encoding is one line of JSON with the meaning of the input.
func FuzzEncode(f *testing.F) {
	f.Add("blockdev-add", "node-name", "a\"\\\x00\u2028", int64(-1), 1.5)
	f.Fuzz(func(t *testing.T, execute, name, text string, i int64, x float64) {
		args := Object{{name, text}, {name + "i", i}, {name + "x", x}, {name + "s", NewSensitive([]byte(text))}}
		c, err := newCall(Command{Execute: execute, Arguments: args}, 5, numericID, true)
		if err != nil {
			return
		}
		var got struct {
			Execute   string
			Arguments map[string]any
			ID        uint64
		}
		decoder := json.NewDecoder(bytes.NewReader(c.wire))
		if err := decoder.Decode(&got); err != nil || bytes.Count(c.wire, []byte("\n")) != 1 {
			t.Fatalf("%q: %v", c.wire, err)
		}
		if got.Execute != execute || got.Arguments[name] != text || got.Arguments[name+"s"] != text || got.Arguments[name+"x"] != x || got.ID != 5 {
			t.Errorf("%q gives %+v", c.wire, got)
		}
	})
}
