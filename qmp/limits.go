package qmp

import (
	"fmt"
	"strings"
)

// DefaultLineLimit bounds each message of QEMU, unless WithLineLimit sets another bound. The largest that a real
// QEMU sends is the reply to query-qmp-schema, a quarter of a megabyte.
const DefaultLineLimit = 16 << 20

// Bounds of a message in addition to its length: decoded, a short value takes many times its length.
const (
	// A message may have one comma, brace or bracket for 16 bytes of the line limit, which is what QEMU's own
	// replies have, or 65536 of them.
	bytesPerValue = 16
	leastValues   = 1 << 16
	// deepest is the nesting. QEMU's own parser refuses more than 1024 levels (qobject/json-streamer.c).
	deepest = 1000
)

// longestText is the length to which the text of an error of QEMU's and the name of its package are shortened.
const longestText = 16 << 10

// WithLineLimit bounds each message that the client takes from QEMU, its greeting, replies and events, to that
// number of bytes; 0 and less are DefaultLineLimit. A larger message ends the connection with
// [ErrMessageTooLarge], and so does one that is nested more than 1000 levels deep, or consists of so many values
// that they would take many times its length in memory. So the memory that a reply takes is of the order of the limit, whatever QEMU sends.
func WithLineLimit(bytes int) Option {
	return func(o *options) {
		if o.limit = bytes; bytes <= 0 {
			o.limit = DefaultLineLimit
		}
	}
}

func tooLong(limit int) error { return fmt.Errorf("%w: more than %d bytes", ErrMessageTooLarge, limit) }

// shorten cuts a text for messages.
func shorten(text string) string {
	if len(text) <= longestText {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes more)", strings.ToValidUTF8(text[:longestText], ""), len(text)-longestText)
}

// sizeOf estimates the length of a decoded value's JSON.
func sizeOf(value any) int {
	const each = 8
	size := each
	switch v := value.(type) {
	case string:
		size += len(v)
	case []any:
		for _, e := range v {
			size += sizeOf(e)
		}
	case map[string]any:
		for name, e := range v {
			size += len(name) + sizeOf(e)
		}
	}
	return size
}
