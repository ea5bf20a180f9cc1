package diskxml

import (
	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/secrets"
)

// parseSecret reads a <secret> of any type.
func parseSecret(e *element) (secrets.Reference, error) {
	ref := secrets.Reference{Type: secrets.Type(e.attr("type")), Usage: e.attr("usage")}
	id := e.attr("uuid")
	if (id == "") == (ref.Usage == "") {
		return ref, e.invalid("", "needs either uuid= or usage=, and not both")
	}
	if id != "" {
		parsed, err := secrets.ParseUUID(id)
		if err != nil {
			return ref, e.invalid("uuid", "malformed uuid, which is not shown, as it may be a secret: write it like 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f")
		}
		ref.UUID = parsed
	}
	return ref, nil
}

// parseAuth reads an <auth> for a protocol. libvirt looks up all secrets but
// Ceph's as type iscsi.
func parseAuth(e *element, protocol string) (*blockgraph.Auth, error) {
	a := &blockgraph.Auth{User: e.attr("username")}
	if a.User == "" {
		return nil, e.invalid("username", "missing username for auth")
	}
	s := e.child("secret")
	if s == nil {
		return nil, e.invalid("", "Missing <secret> element in auth")
	}
	var err error
	if a.Secret, err = parseSecret(s); err != nil {
		return nil, err
	}
	given, want := a.Secret.Type, secrets.ISCSI
	if protocol == "rbd" {
		want = secrets.Ceph
	}
	strict := protocol == "rbd" || protocol == "iscsi"
	switch {
	case !given.Valid() && given != "volume":
		return nil, s.invalid("type", "unknown secret type %q: use type='%s'", message.Shorten(string(given)), want)
	case strict && given != want:
		return nil, s.invalid("type", "invalid secret type '%s': the protocol %s needs type='%s'", given, protocol, want)
	}
	a.Secret.Type = want
	if err := a.Secret.Validate(); err != nil {
		return nil, s.invalid("", "%v", err)
	}
	return a, nil
}
