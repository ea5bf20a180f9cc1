package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"github.com/luksplug/luksplug/internal/qapi"
)

// scrubText replaces each secret in text. Secrets come longest first, so that a secret that is part of
// another leaves no remainder.
func scrubText(text []byte, secrets [][]byte) []byte {
	for _, secret := range secrets {
		text = bytes.ReplaceAll(text, secret, []byte(qapi.Redacted))
	}
	return text
}

// scrubJSON replaces the secrets within the strings of valid JSON. It compares decoded strings, since the
// peer may escape other characters than the client did, and leaves every other byte unchanged.
func scrubJSON(raw json.RawMessage, secrets [][]byte) json.RawMessage {
	var out []byte // stays nil until something is replaced
	copied := 0
	for i := 0; i < len(raw); i++ {
		if raw[i] != '"' {
			continue
		}
		start := i
		for i++; i < len(raw) && raw[i] != '"'; i++ {
			if raw[i] == '\\' {
				i++
			}
		}
		if i >= len(raw) {
			break // not JSON; its reader reports that
		}
		var text string
		if err := json.Unmarshal(raw[start:i+1], &text); err != nil || !containsAny(text, secrets) {
			continue
		}
		out = append(out, raw[copied:start]...)
		out = qapi.AppendQuoted(out, scrubText([]byte(text), secrets))
		copied = i + 1
	}
	if out == nil {
		return raw
	}
	return append(out, raw[copied:]...)
}

// scrubError returns err, or, where its text holds a secret, an error with the
// scrubbed text alone: unwrapping must not lead back to the secret.
func scrubError(err error, secrets [][]byte) error {
	if err == nil || !containsAny(err.Error(), secrets) {
		return err
	}
	return errors.New(string(scrubText([]byte(err.Error()), secrets)))
}

func containsAny(text string, secrets [][]byte) bool {
	return slices.ContainsFunc(secrets, func(secret []byte) bool {
		return bytes.Contains([]byte(text), secret)
	})
}

func longestFirst(secrets [][]byte) [][]byte {
	slices.SortStableFunc(secrets, func(a, b []byte) int { return len(b) - len(a) })
	return secrets
}
