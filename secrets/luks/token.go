package luks

import (
	"encoding/json"
	"time"
)

// Token is an object of a LUKS2 header that programs keep there (LUKS2 On-Disk Format Specification 1.1, section 3.5).
// It is a claim of the writer of the header: nothing protects it.
type Token struct {
	ID       int // 0..31
	Type     string
	KeySlots []int // that the token is for
	// JSON is the whole token, as it is in the header.
	JSON json.RawMessage
}

// The token with the birth of the volume key. It is for no key slot, so that no change of one removes it.
const (
	birthToken   = "luksplug-data-key" //nolint:gosec // the type of a token, no secret
	birthVersion = 1
)

// json2Birth is this token in the JSON area.
type json2Birth struct {
	Type     string   `json:"type"`
	KeySlots []string `json:"keyslots"`
	Version  int      `json:"version"` // of this format
	Birth    string   `json:"birth"`   // RFC 3339, UTC
}

// tokens returns the tokens of a new header.
func (f Format) tokens() map[string]json2Birth {
	if f.Birth.IsZero() {
		return map[string]json2Birth{}
	}
	return map[string]json2Birth{"0": {Type: birthToken, KeySlots: []string{}, Version: birthVersion, Birth: f.Birth.UTC().Format(time.RFC3339)}}
}

// Birth returns when the volume key was made, as a token of [Format] records it, in seconds and UTC. The result is false
// for a header without such a token, which LUKS1 headers are. It is a claim of the writer of the header, and may lie
// in the future. cryptsetup keeps the token also when it re-encrypts the volume with another key.
func (h *Header) Birth() (time.Time, bool) {
	if h.LUKS2 == nil {
		return time.Time{}, false
	}
	for _, t := range h.LUKS2.Tokens {
		var b json2Birth
		if t.Type != birthToken || json.Unmarshal(t.JSON, &b) != nil || b.Version != birthVersion {
			continue
		}
		if born, err := time.Parse(time.RFC3339, b.Birth); err == nil {
			return born.UTC(), true
		}
	}
	return time.Time{}, false
}
