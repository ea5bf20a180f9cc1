package domainxml

import (
	"cmp"
	"strings"

	"github.com/luksplug/luksplug/secrets"
)

// SecretUse is a part of a document that names secrets: a disk, or another element.
type SecretUse struct {
	Target  string // of a disk; otherwise the element, like <auth>
	Payload string // path or name of a disk's image, "" for none
	Header  string // path of its detached header, "" for none
	Secrets []secrets.Reference
}

// SecretUses returns the parts of a document that name secrets, and the disks that are
// encrypted. The document is libvirt's, of a domain, a snapshot, a storage pool or a volume;
// luksplug's record of disks in the metadata of a domain is searched as well.
func SecretUses(text []byte) ([]SecretUse, error) {
	root, err := ParseElement(text)
	if err != nil {
		return nil, err
	}
	return root.secretUses("", ""), nil
}

// secretUses returns the uses in the element. parent is the name of the one around it, and
// kind the type of secrets that state none.
func (e *Element) secretUses(parent string, kind secrets.Type) []SecretUse {
	var whole SecretUse
	switch {
	case e.Name.Local == "disk" && e.childNamed("source") != nil:
		whole = e.diskUse()
	case e.Name.Local == "volume" && e.childNamed("target") != nil:
		whole = SecretUse{Target: "<volume>", Payload: e.text("target", "path"), Secrets: e.references(kind)}
	default:
		return e.partUses(parent, kind)
	}
	if len(whole.Secrets) == 0 {
		return nil
	}
	return []SecretUse{whole}
}

// partUses returns the uses in an element that is neither a disk nor a volume.
func (e *Element) partUses(parent string, kind secrets.Type) []SecretUse {
	var out []SecretUse
	if own := e.ownReferences(kind); len(own) > 0 {
		if e.Name.Local != "secret" {
			parent = e.Name.Local
		}
		out = append(out, SecretUse{Target: "<" + parent + ">", Secrets: own})
	}
	for _, c := range e.Children {
		out = append(out, c.secretUses(e.Name.Local, e.secretType(kind))...)
	}
	return out
}

// diskUse returns the secrets and images of a <disk>.
func (e *Element) diskUse() SecretUse {
	use := SecretUse{Target: "disk", Secrets: e.references("")}
	if target := e.childNamed("target"); target != nil {
		use.Target = cmp.Or(target.attr("dev"), use.Target)
	}
	source := e.childNamed("source")
	use.Payload = source.sourcePath()
	for _, encryption := range []*Element{e.childNamed("encryption"), source.childNamed("encryption")} {
		if encryption == nil {
			continue
		}
		if header := encryption.childNamed("header"); header != nil {
			if of := header.childNamed("source"); of != nil {
				use.Header = of.sourcePath()
			}
		}
	}
	return use
}

// sourcePath returns the path or name of the image that a <source> names.
func (e *Element) sourcePath() string {
	return cmp.Or(e.attr("file"), e.attr("dev"), e.attr("dir"), e.attr("name"), e.attr("volume"))
}

// references returns the secrets that the element and those in it name. kind is the type of
// those that state none.
func (e *Element) references(kind secrets.Type) []secrets.Reference {
	out := e.ownReferences(kind)
	kind = e.secretType(kind)
	for _, c := range e.Children {
		out = append(out, c.references(kind)...)
	}
	return out
}

// secretType returns the type of the secrets in an element.
func (e *Element) secretType(outer secrets.Type) secrets.Type {
	if e.Name.Local != "auth" {
		return outer
	}
	switch e.attr("type") {
	case "chap", "iscsi":
		return secrets.ISCSI
	case "ceph":
		return secrets.Ceph
	}
	return outer
}

// ownReferences returns the secrets that the element itself names.
func (e *Element) ownReferences(kind secrets.Type) []secrets.Reference {
	var out []secrets.Reference
	add := func(kind secrets.Type, id, usage string) {
		if parsed, err := secrets.ParseUUID(id); err == nil {
			out = append(out, secrets.Reference{Type: kind, UUID: parsed})
		} else if usage != "" {
			out = append(out, secrets.Reference{Type: kind, Usage: usage})
		}
	}
	switch {
	case e.Name.Local == "secret":
		if stated := secrets.UsageType(e.attr("type")); stated != secrets.UsageNone && stated != secrets.UsageVolume && stated.Valid() {
			kind = stated.Type()
		}
		add(cmp.Or(kind, secrets.Passphrase), e.attr("uuid"), e.attr("usage"))
	case e.Name.Local == "encryption" && e.attr("secret") != "": // of a TPM
		add(secrets.UsageVTPM.Type(), e.attr("secret"), "")
	case e.attr("tls-secret") != "": // of a record of luksplug's
		usage, _ := strings.CutPrefix(e.attr("tls-secret"), "tls:")
		add(secrets.TLS, e.attr("tls-secret"), usage)
	}
	return out
}

// childNamed returns the first child of that name in any namespace, nil if there is none.
func (e *Element) childNamed(name string) *Element {
	for _, c := range e.Children {
		if c.Name.Local == name {
			return c
		}
	}
	return nil
}

// text returns the text of an element below e, "" if there is none.
func (e *Element) text(path ...string) string {
	for _, name := range path {
		if e = e.childNamed(name); e == nil {
			return ""
		}
	}
	return e.Text
}
