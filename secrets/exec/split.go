package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrInvalidCommand is wrapped by the errors of [New] and [Split].
var ErrInvalidCommand = errors.New("invalid command")

// Split parses a command as the package comment documents. It returns at least one
// word, the first of which is not empty. Errors wrap [ErrInvalidCommand].
func Split(command string) ([]string, error) {
	var words []string
	var err error
	if strings.HasPrefix(strings.TrimSpace(command), "[") {
		if err = json.Unmarshal([]byte(command), &words); err != nil {
			return nil, fmt.Errorf("%w: it begins with [ but is not a JSON array of strings", ErrInvalidCommand)
		}
	} else if words, err = split(command); err != nil {
		return nil, err
	}
	if len(words) == 0 || words[0] == "" {
		return nil, fmt.Errorf("%w: it names no program", ErrInvalidCommand)
	}
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return nil, fmt.Errorf("%w: it holds a NUL character", ErrInvalidCommand)
		}
	}
	return words, nil
}

func split(command string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun := false // also true in an empty quoted word
	for i := 0; i < len(command); i++ {
		switch c := command[i]; c {
		case ' ', '\t', '\n':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		case '\'', '"':
			begun = true
			end, err := quoted(command[i+1:], c, &word)
			if err != nil {
				return nil, err
			}
			i += end
		case '\\':
			return nil, fmt.Errorf(`%w: a \ outside of quotes is not supported: put the word in '...'`, ErrInvalidCommand)
		default:
			begun = true
			word.WriteByte(c)
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// quoted appends the quoted text at the start of rest to word, and returns its length
// with the closing quote, in bytes.
func quoted(rest string, quote byte, word *strings.Builder) (int, error) {
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			return i + 1, nil
		case c == '\\' && quote == '"' && i+1 < len(rest) && (rest[i+1] == '"' || rest[i+1] == '\\'):
			i++
			word.WriteByte(rest[i])
		default:
			word.WriteByte(c)
		}
	}
	return 0, fmt.Errorf("%w: a %c is not closed", ErrInvalidCommand, quote)
}
