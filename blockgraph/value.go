package blockgraph

import (
	"fmt"

	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/secrets"
)

// Object is a JSON object whose members keep their order, so that the same plan always
// prints the same bytes. It is the type of the same name in package qmp.
//
// The values in a plan are nil, bool, string, int, int64, uint64, Object, []any (of the
// same kinds) and SecretData. String and MarshalJSON render it with secret values
// redacted; Get, Text, Has, With and Without work on its members.
type Object = qapi.Object

// Member is one name and value of an Object.
type Member = qapi.Member

// SecretData is the placeholder of a secret value in a plan, which the executor replaces
// just before the command is sent. It prints as "[redacted]".
type SecretData struct {
	qapi.Placeholder
	Ref    secrets.Reference // names the secret
	Text   SecretText        // the secret itself, where the XML contains it; Ref is then empty
	Object string            // the id of the object with the value
	// OneTime: the value is the one-time passphrase of an ephemeral header, or with an
	// empty Ref of an [Overlay].
	OneTime bool
}

// Kept reports whether the value, or what it is derived from, is in a key store: Ref
// names it there.
func (d SecretData) Kept() bool { return d.Ref != (secrets.Reference{}) }

// Redacted replaces a secret value in all output.
const Redacted = qapi.Redacted

// String returns "[redacted]".
func (SecretData) String() string { return Redacted }

// SecretText is a secret in the XML, such as a cookie. It prints as "[redacted]" in every
// verb of fmt, and in JSON.
type SecretText string

// Format implements [fmt.Formatter].
func (SecretText) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) } // fmt ignores the error

// MarshalText implements [encoding.TextMarshaler].
func (SecretText) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// addSwitch adds a member to o unless the switch is left to QEMU.
func addSwitch(o *Object, name string, s Switch) {
	if s != "" {
		o.Add(name, s == On)
	}
}
