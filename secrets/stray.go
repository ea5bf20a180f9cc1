package secrets

import "bytes"

// strays are bytes at an end of a value that editors and shells add, and users do not see. The
// first match counts.
var strays = []struct {
	begin, end string
	text       string
}{
	{"\xef\xbb\xbf", "", "begins with a byte order mark"},
	{"\xff\xfe", "", "begins with the byte order mark of UTF-16"},
	{"\xfe\xff", "", "begins with the byte order mark of UTF-16"},
	{"", "\r\n", "ends in a carriage return and a newline"},
	{"", "\n", "ends in a newline"},
	{"", "\r", "ends in a carriage return"},
	{"", "\x00", "ends in a NUL byte"},
	{"", " ", "ends in a space"},
	{"", "\t", "ends in a tab"},
}

// Stray describes the bytes at an end of the value that are probably there by mistake, a
// frequent cause of a wrong passphrase: "ends in a newline". It returns "" for none, and for a
// wiped secret. They are part of the value nevertheless: no store removes them.
func (s *Secret) Stray() string {
	found := ""
	_ = s.Use(func(value []byte) error { // fails only for a wiped secret
		for _, c := range strays {
			if bytes.HasPrefix(value, []byte(c.begin)) && bytes.HasSuffix(value, []byte(c.end)) {
				found = c.text
				break
			}
		}
		return nil
	})
	return found
}
