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

// TestUTF8Attributes: values are as an XML processor passes them on (XML 1.0, 3.3.3), and lines keep their numbers.
func TestUTF8Attributes(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		"<a b='c\nd'/>":                                 "c d",
		"<a b=\"c\r\nd\"/>":                             "c d",
		"<a b='c\rd'/>":                                 "c d",
		"<a b='c\td'/>":                                 "c d",
		"<a b='\n\tc\n'/>":                              "  c ",
		"<a b='c&#10;d&#9;e&#13;f'/>":                   "c\nd\te\rf",
		"<a x='\"' b='c\nd' y='>'/>":                    "c d",
		"<a\n\tb\n=\n'c d'\n/>":                         "c d",
		"<!-- <a b='\n'> ' --><a b='c\nd'/>":            "c d",
		"<?x '\n?><a b='c\nd'><![CDATA[<x y='\n]]></a>": "c d",
		"<a b='c\nd'>'\n<e f='\n'/></a>":                "c d",
	} {
		text, err := xmltext.UTF8([]byte(doc))
		if err != nil {
			t.Errorf("%q: %v", doc, err)
			continue
		}
		lines := func(text string) int {
			return strings.Count(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", ""), "\n")
		}
		var got struct {
			B string `xml:"b,attr"`
		}
		if err := xml.Unmarshal(text, &got); err != nil || got.B != want {
			t.Errorf("%q: %q, %v, want %q", doc, got.B, err, want)
		}
		if lines(string(text)) != lines(doc) {
			t.Errorf("%q has %d lines, want %d", text, lines(string(text)), lines(doc))
		}
	}
	for _, doc := range []string{"<a>\n\t'x\ny'</a>\n", "<!-- '\n' --><a><![CDATA[<b c='\n'>]]></a>", "<a b='\n", "<", "<a b='c'", "<!--\n", "<?x\n", ""} {
		if got, err := xmltext.UTF8([]byte(doc)); err != nil || string(got) != doc {
			t.Errorf("%q: %q, %v", doc, got, err)
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
