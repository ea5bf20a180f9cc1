package diskxml

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"strconv"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
	"github.com/luksplug/luksplug/secrets"
)

// ParsePool reads a libvirt <pool> document. The error is an [*XMLError].
func ParsePool(data []byte) (*blockgraph.Pool, error) {
	if len(data) > maxXMLBytes {
		return nil, &XMLError{Element: "pool", Reason: fmt.Sprintf("%d bytes are more than a <pool> can need", len(data))}
	}
	data, err := utf8Text("pool", data)
	if err != nil {
		return nil, err
	}
	var doc libvirtxml.StoragePool
	if err := xml.Unmarshal(data, &doc); err != nil {
		return nil, malformed("pool", err)
	}
	p := &blockgraph.Pool{Name: doc.Name, Type: doc.Type}
	if p.Name == "" || p.Type == "" {
		return nil, &XMLError{Element: "pool", Reason: "has no name or no type"}
	}
	if doc.Target != nil {
		p.Dir = doc.Target.Path
	}
	if doc.Source == nil {
		return p, nil
	}
	if len(doc.Source.Device) > 0 {
		p.Target = doc.Source.Device[0].Path
	}
	if len(doc.Source.Host) > 0 {
		port, err := strconv.ParseUint(cmp.Or(doc.Source.Host[0].Port, "0"), 10, 16)
		if err != nil {
			return nil, &XMLError{Element: "pool/source/host@port", Reason: strconv.Quote(message.Shorten(doc.Source.Host[0].Port)) + " is no port"}
		}
		p.Host = blockgraph.Host{Name: doc.Source.Host[0].Name, Port: uint(port)}
	}
	p.Auth, err = poolAuth(doc.Source.Auth)
	return p, err
}

// poolAuth reads a pool's <auth type='chap'>.
func poolAuth(doc *libvirtxml.StoragePoolSourceAuth) (*blockgraph.Auth, error) {
	if doc == nil || doc.Type != "chap" || doc.Secret == nil {
		return nil, nil
	}
	a := &blockgraph.Auth{User: doc.Username, Secret: secrets.Reference{Type: secrets.ISCSI, Usage: doc.Secret.Usage}}
	if doc.Secret.UUID != "" {
		id, err := secrets.ParseUUID(doc.Secret.UUID)
		if err != nil {
			return nil, &XMLError{Element: "pool/source/auth/secret@uuid", Reason: "malformed uuid, which is not shown, as it may be a secret"}
		}
		a.Secret.UUID = id
	}
	if err := a.Secret.Validate(); err != nil {
		return nil, &XMLError{Element: "pool/source/auth/secret", Reason: err.Error()}
	}
	return a, nil
}
