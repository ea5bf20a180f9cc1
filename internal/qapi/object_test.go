package qapi_test

import (
	"encoding/json"
	"testing"

	"github.com/luksplug/luksplug/internal/qapi"
)

func TestObjectKeepsItsOrder(t *testing.T) {
	t.Parallel()
	o := qapi.Object{{"z", 1}, {"a", []any{true, nil, int64(-2), uint64(1 << 63), "é<&>\"\\\n"}}, {"m", qapi.Object{{"k", "v"}}}}
	const want = `{"z":1,"a":[true,null,-2,9223372036854775808,"é\u003c\u0026\u003e\"\\\n"],"m":{"k":"v"}}`
	b, err := json.Marshal(o)
	if err != nil || string(b) != want || o.String() != want {
		t.Errorf("got  %s %v\nand  %s\nwant %s", b, err, o, want)
	}
}

func TestObjectCopies(t *testing.T) {
	t.Parallel()
	o := qapi.Object{{"a", "1"}, {"b", "2"}}
	for want, got := range map[string]qapi.Object{
		`{"a":"1","b":"9"}`:          o.With("b", "9"),
		`{"a":"1","b":"2","c":true}`: o.With("c", true),
		`{"b":"2"}`:                  o.Without("a"),
		`{"a":"1","b":"2"}`:          o.Without("x"),
	} {
		if got.String() != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if o.String() != `{"a":"1","b":"2"}` || o.Get("x") != nil || o.Text("a") != "1" || o.With("n", 1).Text("n") != "" {
		t.Errorf("the object is %s", o)
	}
}
