package domainxml_test

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/secrets"
)

// TestSecretUses: every place of libvirt's documents that names a secret is found.
func TestSecretUses(t *testing.T) {
	t.Parallel()
	const id = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"
	byUUID := func(kind secrets.Type) []secrets.Reference {
		return []secrets.Reference{{Type: kind, UUID: uuid.MustParse(id)}}
	}
	byUsage := func(kind secrets.Type, usage string) []secrets.Reference {
		return []secrets.Reference{{Type: kind, Usage: usage}}
	}
	secret := "<secret type='passphrase' uuid='" + id + "'/>"
	for name, c := range map[string]struct {
		xml  string
		want []domainxml.SecretUse
	}{
		"in the source":       {"<domain><devices><disk><source file='/a'><encryption format='luks'>" + secret + "</encryption></source><target dev='vda'/></disk></devices></domain>", []domainxml.SecretUse{{"vda", "/a", "", byUUID(secrets.Passphrase)}}},
		"in the disk":         {"<domain><devices><disk><source dev='/dev/a'/><target dev='vda'/><encryption format='luks'>" + secret + "</encryption></disk></devices></domain>", []domainxml.SecretUse{{"vda", "/dev/a", "", byUUID(secrets.Passphrase)}}},
		"in the backing file": {"<domain><disk><source file='/a'/><backingStore><source file='/b'><encryption>" + secret + "</encryption></source></backingStore><target dev='vda'/></disk></domain>", []domainxml.SecretUse{{"vda", "/a", "", byUUID(secrets.Passphrase)}}},
		"without encryption":  {"<domain><disk><source file='/a'/><target dev='vda'/></disk></domain>", nil},
		"with a header":       {"<disk><source file='/a'><encryption>" + secret + "<header><source file='/h'/></header></encryption></source></disk>", []domainxml.SecretUse{{"disk", "/a", "/h", byUUID(secrets.Passphrase)}}},
		"of Ceph":             {"<disk><auth username='a'><secret type='ceph' usage='c'/></auth><source name='p/i'/></disk>", []domainxml.SecretUse{{"disk", "p/i", "", byUsage(secrets.Ceph, "c")}}},
		"of iSCSI": {"<domain><hostdev><source protocol='iscsi'><auth><secret type='iscsi' usage='t'/></auth></source></hostdev></domain>",
			[]domainxml.SecretUse{{"<auth>", "", "", byUsage(secrets.ISCSI, "t")}}},
		"of a TPM": {"<domain><tpm><backend><encryption secret='" + id + "'/></backend></tpm></domain>", []domainxml.SecretUse{{"<encryption>", "", "", byUUID(secrets.UsageVTPM.Type())}}},
		"of a pool": {"<pool><source><auth type='chap'><secret uuid='" + id + "'/></auth></source></pool>",
			[]domainxml.SecretUse{{"<auth>", "", "", byUUID(secrets.ISCSI)}}},
		"of a volume": {"<volume><target><path>/v</path><encryption>" + secret + "</encryption></target></volume>", []domainxml.SecretUse{{"<volume>", "/v", "", byUUID(secrets.Passphrase)}}},
		"of a record": {"<domain><metadata><l:disks xmlns:l='x'><l:disk target='vda' tls-secret='tls:key'><disk><source file='/a'><encryption>" + secret + "</encryption></source><target dev='vda'/></disk></l:disk></l:disks></metadata></domain>",
			[]domainxml.SecretUse{{"<disk>", "", "", byUsage(secrets.TLS, "key")}, {"vda", "/a", "", byUUID(secrets.Passphrase)}}},
		"of a snapshot": {"<domainsnapshot><domain><disk><source file='/a'><encryption>" + secret + "</encryption></source></disk></domain></domainsnapshot>", []domainxml.SecretUse{{"disk", "/a", "", byUUID(secrets.Passphrase)}}},
		"no name":       {"<domain><disk><source file='/a'><encryption><secret type='passphrase'/></encryption></source></disk></domain>", nil},
	} {
		got, err := domainxml.SecretUses([]byte(c.xml))
		if err != nil || len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	if _, err := domainxml.SecretUses([]byte("<domain")); err == nil {
		t.Error("a damaged document has no uses")
	}
}
