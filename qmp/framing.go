package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// messageReader splits a stream into JSON values. QEMU ends each with a line break, but with pretty=on it also writes
// line breaks within them. One messageReader lives as long as its connection: bytes that are read and not yet used belong
// to the next message.
type messageReader struct {
	r     *bufio.Reader
	limit int    // bytes of a message
	long  []byte // gathers a message that does not fit r's buffer
}

func newMessageReader(r io.Reader, limit int) *messageReader {
	return &messageReader{r: bufio.NewReaderSize(r, 64<<10), limit: limit}
}

// next returns the next JSON object, in one line. It is valid until next is called again. Its shape is checked, but it need
// not be valid JSON: bytes that do not begin an object are returned up to the end of their line, and a value that cannot become
// valid is returned up to the byte that shows this. A message that the stream ends in is an error. One beyond the bounds is
// [ErrMessageTooLarge], before more of it is read.
func (m *messageReader) next() ([]byte, error) {
	m.long = nil
	if err := m.skipBlanks(); err != nil {
		return nil, err
	}
	s, scanned := newScanner(m.limit), 0 // of the bytes that are buffered
	for {
		part, err := m.r.Peek(scanned + 1)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			m.long = append(m.long, part...)
			m.discard(scanned)
			scanned = 0
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		part, _ = m.r.Peek(m.r.Buffered()) // which reads nothing
		n, done, err := s.scan(part[scanned:])
		scanned += n
		if err == nil && len(m.long)+scanned > m.limit {
			err = tooLong(m.limit)
		}
		if err != nil {
			m.long = nil
			return nil, err
		}
		if !done {
			continue
		}
		text := part[:scanned]
		if m.long != nil {
			m.long = append(m.long, text...)
			text = m.long
		}
		m.discard(scanned)
		m.skipBuffered() // the line break, so that Buffered counts messages only
		return oneLine(text), nil
	}
}

// oneLine removes the blanks between the values of a message that is in more than one line.
func oneLine(text []byte) []byte {
	if bytes.IndexByte(text, '\n') < 0 {
		return text
	}
	var line bytes.Buffer
	if json.Compact(&line, text) != nil {
		return text // no JSON, which its reader reports
	}
	return line.Bytes()
}

// skipBlanks reads up to the first byte that is not blank.
func (m *messageReader) skipBlanks() error {
	for skipped := 0; ; {
		skipped += m.skipBuffered()
		if skipped > m.limit {
			return tooLong(m.limit)
		}
		if m.r.Buffered() > 0 {
			return nil
		}
		if _, err := m.r.Peek(1); err != nil {
			return err
		}
	}
}

// skipBuffered discards the blanks at the start of the buffer, and returns their number.
func (m *messageReader) skipBuffered() int {
	part, _ := m.r.Peek(m.r.Buffered()) // which reads nothing
	n := 0
	for n < len(part) && blank(part[n]) {
		n++
	}
	m.discard(n)
	return n
}

// discard removes bytes that are in the buffer. They stay valid until more is read.
func (m *messageReader) discard(n int) { _, _ = m.r.Discard(n) }

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// scanner finds the end of a JSON object that comes in parts, and checks its nesting and its number of values. It does
// not check that the object is valid, but notices a message that was cut off when the next one begins.
type scanner struct {
	values, most int
	open         []byte // the braces and brackets that are open, each as its closing one
	inString     bool
	escaped      bool // the next byte of the string
	ended        bool // a string, object or array has ended: none may begin before a comma or colon
	begun        bool
	text         bool // no object: up to the end of the line
}

func newScanner(limit int) scanner { return scanner{most: max(limit/bytesPerValue, leastValues)} }

// scan takes the next part of the message. It returns how many bytes of it belong to the message, and whether that is
// the end of it.
func (s *scanner) scan(part []byte) (n int, done bool, err error) {
	if !s.begun && len(part) > 0 {
		s.begun, s.text = true, part[0] != '{'
	}
	for i, c := range part {
		switch {
		case s.text:
			done = c == '\n'
		case s.inString:
			done = s.letter(c)
		default:
			if done, err = s.token(c); err != nil {
				return i, false, err
			}
		}
		if done {
			return i + 1, true, nil
		}
	}
	return len(part), false, nil
}

// letter takes a byte of a string. broken is true for one that no string may have.
func (s *scanner) letter(c byte) (broken bool) {
	switch {
	case c < ' ':
		return true
	case s.escaped:
		s.escaped = false
	case c == '\\':
		s.escaped = true
	case c == '"':
		s.inString, s.ended = false, true
	}
	return false
}

// token takes a byte outside of strings.
func (s *scanner) token(c byte) (done bool, err error) {
	switch c {
	case '"', '{', '[':
		if s.ended {
			return true, nil
		}
		if c == '"' {
			s.inString = true
			return false, nil
		}
		s.open = append(s.open, c+2) // } and ] are two after { and [
		s.values++
	case '}', ']':
		last := len(s.open) - 1
		if c != s.open[last] {
			return true, nil
		}
		s.open, s.ended = s.open[:last], true
		return last == 0, nil
	case ',':
		s.values++
		s.ended = false
	case ':':
		s.ended = false
	}
	if len(s.open) > deepest {
		return false, fmt.Errorf("%w: nested more than %d levels deep", ErrMessageTooLarge, deepest)
	}
	if s.values > s.most {
		return false, fmt.Errorf("%w: more than %d values", ErrMessageTooLarge, s.most)
	}
	return false, nil
}

// oneMessage checks the bounds of a text that a transport has read as one message.
func oneMessage(text []byte, limit int) error {
	if len(text) > limit {
		return tooLong(limit)
	}
	s := newScanner(limit)
	_, _, err := s.scan(text)
	return err
}
