package qapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/qapi"
)

func TestObjectIsReadInItsOrder(t *testing.T) {
	t.Parallel()
	const text = `{"z":1,"a":[true,null,-2,18446744073709551615,"\u003c é"],"m":{"k":{},"b":[]}}`
	var o qapi.Object
	if err := json.Unmarshal([]byte(" "+text+"\n"), &o); err != nil {
		t.Fatal(err)
	}
	if o.String() != text || o[0].Name != "z" || o.Get("z") != int64(1) {
		t.Errorf("got %s of %#v", o, o)
	}
}

func TestObjectRefusesJSONThatIsNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[]`: "no JSON object", `"a"`: "no JSON object", `{"a":1.5}`: "invalid syntax", `{"a":{"b":1,"b":2}}`: "twice",
		`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`: "too deep",
	} {
		var o qapi.Object
		if err := json.Unmarshal([]byte(text), &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want ...%s...", text, err, want)
		}
	}
}
