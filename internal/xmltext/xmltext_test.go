package xmltext_test

import (
	"encoding/binary"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/luksplug/luksplug/internal/xmltext"
)

func encode(order binary.AppendByteOrder, text string) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

func TestUTF8(t *testing.T) {
	t.Parallel()
	const want = "<?xml version='1.0' encoding='UTF-8'?>\n<a>\u00e9\u00b2</a>\n"
	as := func(encoding string) string { return strings.Replace(want, "UTF-8", encoding, 1) }
	latin1 := func(text string) []byte {
		var out []byte
		for _, r := range text {
			out = append(out, byte(r))
		}
		return out
	}
	for name, data := range map[string][]byte{
		"UTF-8":                  []byte(want),
		"byte order mark":        []byte("\ufeff" + want),
		"UTF-16, little-endian":  encode(binary.LittleEndian, "\ufeff"+as("UTF-16")),
		"UTF-16, big-endian":     encode(binary.BigEndian, "\ufeff"+as("utf-16")),
		"UTF-16 without a mark":  encode(binary.BigEndian, as("UTF-16BE")),
		"UTF-16, declared UTF-8": encode(binary.LittleEndian, "\ufeff"+want),
		"ISO-8859-1":             latin1(as("ISO-8859-1")),
		"latin1":                 latin1(as("latin1")),
	} {
		if got, err := xmltext.UTF8(data); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	const plain = "<a>\U0001f512</a>"
	if got, err := xmltext.UTF8(encode(binary.LittleEndian, "\ufeff"+plain)); err != nil || string(got) != plain {
		t.Errorf("a surrogate pair: %q, %v", got, err)
	}
	for name, data := range map[string][]byte{
		"unknown":         []byte(as("koi8-r")),
		"not UTF-16":      []byte(as("UTF-16")),
		"not ASCII":       []byte(as("US-ASCII")),
		"UTF-16 as latin": encode(binary.LittleEndian, "\ufeff"+as("ISO-8859-1")),
		"odd":             append(encode(binary.LittleEndian, "\ufeff<a/>"), 'x'),
		"half a pair":     binary.LittleEndian.AppendUint16(encode(binary.LittleEndian, "\ufeff<a/>"), 0xd800),
		"pair reversed":   encode(binary.LittleEndian, "\ufeff<a>")[:8:8],
	} {
		if name == "pair reversed" {
			data = append(data, 0x00, 0xdc, 0x00, 0xd8)
		}
		if got, err := xmltext.UTF8(data); !errors.Is(err, xmltext.ErrEncoding) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestSyntaxReasonShowsNoText: the errors of documents that are not well-formed show nothing of them.
func TestSyntaxReasonShowsNoText(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		"<a>&hunter2;</a>", "<a>x&hunter2</a>", "<a>x<hunter2</a>", "<a>x<hunter2>y</a>", "<a>x</hunter2></a>", "<a b='&hunter2'/>", "<a b='<hunter2'/>",
		"<a b=hunter2/>", "<a hunter2/>", "<a>x<hunter2:b:c>y</a>", "<a>x<?xml version='hunter2'?></a>", "<a>x<?hunter2", "<a>x<!-hunter2></a>",
		"<a>x<![hunter2]]></a>", "<a>x<!--hunter2--x--></a>", "<a>]]>hunter2</a>", "<a>hunter2", "</hunter2>", "<a>x</a hunter2>", "<hunter2:a></b:a>", "<a>\x01hunter2</a>",
		"<a>x<?xml version='1.0' encoding='hunter2'?></a>", "<a>x<1hunter2></a>", "<a>x</1hunter2></a>",
	} {
		d := xml.NewDecoder(strings.NewReader(doc))
		var err error
		for err == nil {
			_, err = d.Token()
		}
		if _, reason := xmltext.SyntaxReason(err); strings.Contains(reason, "hunter2") || reason == "" {
			t.Errorf("%s: %s", doc, reason)
		}
	}
}
