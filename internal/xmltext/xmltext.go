// Package xmltext holds what the readers of XML documents share: character encodings, the texts of syntax errors, and
// suggestions for misspelt names.
package xmltext

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrEncoding reports a document whose character encoding is not supported, or is not the one that it declares.
var ErrEncoding = errors.New("the character encoding")

// declaration matches an XML declaration up to the end of its encoding, which is the first group.
var declaration = regexp.MustCompile(`^[ \t\r\n]*<\?xml[ \t\r\n][^<>?]*?encoding[ \t\r\n]*=[ \t\r\n]*["']([A-Za-z0-9._:-]+)["']`)

// latin1 are the names of ISO-8859-1, in lower case.
var latin1 = []string{"iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "latin-1", "iso-latin-1", "l1"}

// UTF8 returns a document in UTF-8 and without a byte order mark: one in UTF-8, in UTF-16 of either order, or in
// ISO-8859-1 or US-ASCII that it declares, as libvirt reads them. A declaration of another encoding is changed to UTF-8.
// Line breaks and tabs in the values of attributes become spaces, as XML demands (XML 1.0, 3.3.3), which package
// encoding/xml leaves to its caller. Elements keep the numbers of their lines. Errors wrap [ErrEncoding].
func UTF8(data []byte) ([]byte, error) {
	text, err := decoded(data)
	if err != nil {
		return nil, err
	}
	return normalized(text), nil
}

// decoded returns a document in UTF-8.
func decoded(data []byte) ([]byte, error) {
	order, mark := utf16Order(data)
	if order != nil {
		text, err := fromUTF16(data[mark:], order)
		if err != nil {
			return nil, err
		}
		return declared(text, "utf-16", "utf-16le", "utf-16be", "ucs-2", "iso-10646-ucs-2")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	match := declaration.FindSubmatchIndex(data)
	if match == nil {
		return data, nil
	}
	switch name := strings.ToLower(string(data[match[2]:match[3]])); {
	case name == "utf-8" || name == "utf8":
		return declared(data, name)
	case slices.Contains(latin1, name):
		runes := make([]rune, len(data))
		for i, b := range data {
			runes[i] = rune(b)
		}
		return declared([]byte(string(runes)), name)
	case name == "us-ascii" || name == "ascii":
		if i := bytes.IndexFunc(data, func(r rune) bool { return r >= utf8.RuneSelf }); i >= 0 {
			return nil, fmt.Errorf("%w is declared as %s, and the document has other characters: correct the declaration", ErrEncoding, name)
		}
		return declared(data, name)
	case strings.HasPrefix(name, "utf-16") || strings.HasPrefix(name, "ucs-2"):
		return nil, fmt.Errorf("%w is declared as %s, and the document is in another: correct the declaration", ErrEncoding, name)
	default:
		return nil, fmt.Errorf("%w %q is not supported: convert the document to UTF-8 (iconv -f %s -t UTF-8) and remove encoding= from its first line", ErrEncoding, name, name)
	}
}

// normalized replaces each line break and tab in the values of attributes by a space. The line breaks are put behind the
// value, so that lines are counted as before. A reference such as &#10; stays: that is how a value has a line break.
func normalized(text []byte) []byte {
	var out []byte // stays nil until something is replaced
	copied := 0
	for at := 0; at < len(text); {
		if text[at] != '<' {
			at++
			continue
		}
		end := at + markup(text[at:])
		if isTag(text[at:end]) {
			for value := range values(text[at:end]) {
				begin, behind := at+value[0], at+value[1]
				if !bytes.ContainsAny(text[begin:behind], "\t\r\n") {
					continue
				}
				spaced, breaks := spaces(text[begin:behind])
				out = append(append(append(out, text[copied:begin]...), spaced...), text[behind])
				out = append(out, breaks...)
				copied = behind + 1
			}
		}
		at = end
	}
	if out == nil {
		return text
	}
	return append(out, text[copied:]...)
}

// markup returns the length of the tag, comment, instruction, declaration or CDATA section that text begins with; all of
// it where there is no end.
func markup(text []byte) int {
	for _, kind := range [...][2]string{{"<!--", "-->"}, {"<![CDATA[", "]]>"}, {"<?", "?>"}} {
		if begin, end := kind[0], kind[1]; bytes.HasPrefix(text, []byte(begin)) {
			if n := bytes.Index(text[len(begin):], []byte(end)); n >= 0 {
				return len(begin) + n + len(end)
			}
			return len(text)
		}
	}
	quote := byte(0)
	for i, c := range text {
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		case quote == 0 && c == '>':
			return i + 1
		}
	}
	return len(text)
}

func isTag(text []byte) bool { return len(text) > 1 && text[1] != '!' && text[1] != '?' }

// values returns the begin and end of each value in a tag, without its quotes.
func values(tag []byte) iter.Seq[[2]int] {
	return func(yield func([2]int) bool) {
		for begin := 0; begin < len(tag); begin++ {
			if tag[begin] != '"' && tag[begin] != '\'' {
				continue
			}
			n := bytes.IndexByte(tag[begin+1:], tag[begin])
			if n < 0 || !yield([2]int{begin + 1, begin + 1 + n}) {
				return
			}
			begin += 1 + n
		}
	}
}

// spaces returns a value with spaces, and the line breaks that were in it.
func spaces(value []byte) (spaced, breaks []byte) {
	value = bytes.ReplaceAll(value, []byte("\r\n"), []byte("\n")) // one line break (XML 1.0, 2.11)
	for _, c := range value {
		switch c {
		case '\n':
			breaks = append(breaks, c)
			c = ' '
		case '\r', '\t':
			c = ' '
		}
		spaced = append(spaced, c)
	}
	return spaced, breaks
}

// utf16Order returns the byte order of a document in UTF-16 and the length of its byte order mark; nil for another.
func utf16Order(data []byte) (binary.ByteOrder, int) {
	for order, starts := range map[binary.ByteOrder][]string{
		binary.LittleEndian: {"\xff\xfe", "<\x00"},
		binary.BigEndian:    {"\xfe\xff", "\x00<"},
	} {
		for n, start := range starts {
			if bytes.HasPrefix(data, []byte(start)) {
				return order, len(start) * (1 - n)
			}
		}
	}
	return nil, 0
}

func fromUTF16(data []byte, order binary.ByteOrder) ([]byte, error) {
	out := make([]byte, 0, len(data))
	for len(data) >= 2 {
		r := rune(order.Uint16(data))
		data = data[2:]
		if utf16.IsSurrogate(r) && len(data) >= 2 {
			r = utf16.DecodeRune(r, rune(order.Uint16(data)))
			data = data[2:]
		}
		if r == utf8.RuneError || utf16.IsSurrogate(r) {
			return nil, fmt.Errorf("%w is UTF-16, and the document has half of a character: it is damaged", ErrEncoding)
		}
		out = utf8.AppendRune(out, r)
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%w is UTF-16, and the document has an odd number of bytes: it is damaged", ErrEncoding)
	}
	return out, nil
}

// declared changes the declared encoding of a document, one of the names, to UTF-8.
func declared(text []byte, names ...string) ([]byte, error) {
	match := declaration.FindSubmatchIndex(text)
	if match == nil {
		return text, nil
	}
	name := strings.ToLower(string(text[match[2]:match[3]]))
	switch {
	case name == "utf-8":
		return text, nil
	case !slices.Contains(names, name):
		return nil, fmt.Errorf("%w is declared as %s, and the document is in another (%s): correct the declaration", ErrEncoding, name, names[0])
	}
	return slices.Concat(text[:match[2]], []byte("UTF-8"), text[match[3]:]), nil
}

// SyntaxReason returns what an error of package xml says is wrong, and its line, 0 where it is not known. It shows no
// text of the document: that can be a secret in which an & or < was not escaped.
func SyntaxReason(err error) (line int, reason string) {
	reason = err.Error()
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		line, reason = syntax.Line, syntax.Msg
	}
	for beginning, instead := range map[string]string{
		"invalid character entity":   "invalid character entity: write & as &amp;",
		"element <":                  "an element is closed by the end tag of another: close it, or write < in text as &lt;",
		"unexpected end element":     "unexpected end element",
		"invalid characters between": "invalid characters in an end tag",
		"invalid XML name":           "invalid XML name",
		"xml: unsupported version":   "the version of XML is not supported: use 1.0",
		"xml: encoding ":             "an encoding is declared that the document does not have",
	} {
		if strings.HasPrefix(reason, beginning) {
			reason = instead
		}
	}
	return line, reason
}
