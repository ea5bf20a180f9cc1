package kmip_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	kmipgo "github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipserver"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/kmip"
)

func name(text string) kmipgo.Attribute {
	return kmipgo.Attribute{AttributeName: kmipgo.AttributeNameName, AttributeValue: kmipgo.Name{NameValue: text, NameType: kmipgo.NameTypeUninterpretedTextString}}
}

func plain(value string) kmipgo.KeyBlock {
	b := []byte(value)
	return kmipgo.KeyBlock{KeyFormatType: kmipgo.KeyFormatTypeRaw, KeyValue: &kmipgo.KeyValue{Plain: &kmipgo.PlainKeyValue{KeyMaterial: kmipgo.KeyMaterial{Bytes: &b}}}}
}

func secretData(value string, attributes ...kmipgo.Attribute) kmiptest.Object {
	return kmiptest.Object{Object: &kmipgo.SecretData{SecretDataType: kmipgo.SecretDataTypePassword, KeyBlock: plain(value)}, Attributes: attributes, State: kmipgo.StateActive}
}

func template(t *testing.T, text string) kmip.Template {
	t.Helper()
	out := must.Get(kmip.ParseTemplate(text))(t)
	return out
}

// The suite, for objects of other programs.
func TestFinder(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		a := kmiptest.NewAuthority(t)
		server := kmiptest.NewServer(t, a)
		proxy := kmiptest.NewProxy(t, server.Address)
		o := options(t, a, proxy.Address, "client")
		byUUID, byUsage := kmip.NewFinder(o, template(t, "name:{type}/{uuid}")), kmip.NewFinder(o, template(t, "x-disk:{type}/{usage}"))
		return storetest.Fixture{
			Store: both{byUUID, byUsage},
			Put: func(_ *testing.T, ref secrets.Reference, value []byte) {
				text := string(ref.Type) + "/" + ref.UUID.String()
				attribute := name(text)
				if ref.UUID == uuid.Nil {
					attribute = kmipgo.Attribute{AttributeName: "x-disk", AttributeValue: string(ref.Type) + "/" + ref.Usage}
				}
				server.Add(secretData(string(value), attribute))
			},
			Deny:  func(*testing.T, secrets.Reference) { denyValues(server) },
			Break: func(*testing.T) { proxy.Break() },
			Hang:  func(*testing.T) { proxy.Hang() },
			Holds: func(ref secrets.Reference) bool { return secrets.IsText(ref.Usage) },
		}
	})
}

// both is a store that queries one finder for uuids and another for usages. Both
// finders have the same name.
type both struct{ byUUID, byUsage *kmip.Finder }

func (b both) String() string { return b.byUUID.String() }

func (b both) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if ref.Usage != "" {
		return b.byUsage.Lookup(ctx, ref)
	}
	return b.byUUID.Lookup(ctx, ref)
}

func TestFound(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	server := kmiptest.NewServer(t, a)
	o := options(t, a, server.Address, "client")
	id := uuid.New()
	server.Add(secretData("by name", name("disks/"+id.String())))
	key := secretData("", name("key"))
	key.Object = &kmipgo.SymmetricKey{KeyBlock: kmipgo.KeyBlock{KeyFormatType: kmipgo.KeyFormatTypeTransparentSymmetricKey, KeyValue: &kmipgo.KeyValue{Plain: &kmipgo.PlainKeyValue{
		KeyMaterial: kmipgo.KeyMaterial{TransparentSymmetricKey: &kmipgo.TransparentSymmetricKey{Key: []byte("a key")}},
	}}}}
	server.Add(key)
	server.Add(secretData("one", name("twins")))
	server.Add(secretData("two", name("twins")))
	old := secretData("old", name("renewed"))
	old.State = kmipgo.StateDeactivated
	server.Add(old)
	server.Add(secretData("renewed", name("renewed")))
	gone := secretData("gone", name("gone"))
	gone.State = kmipgo.StateCompromised
	server.Add(gone)
	server.Add(kmiptest.Object{Object: &kmipgo.Certificate{CertificateType: kmipgo.CertificateTypeX_509}, Attributes: []kmipgo.Attribute{name("certificate")}})
	server.Add(secretData("", name("empty")))
	byID := server.Add(secretData("by id"))
	ref := secrets.Reference{Type: secrets.Passphrase, UUID: id}
	for _, c := range []struct {
		template string
		value    string
		err      error
	}{
		{"name:disks/{uuid}", "by name", nil},
		{"name:key", "a key", nil},
		{"id:" + byID, "by id", nil},
		{"name:renewed", "renewed", nil},
		{"name:nobody", "", secrets.ErrNotFound},
		{"id:nobody", "", secrets.ErrNotFound},
		{"name:{usage}", "", secrets.ErrNotFound},
		{"x-disk:twins", "", secrets.ErrNotFound},
		{"name:twins", "", secrets.ErrDamaged},
		{"name:gone", "", secrets.ErrDenied},
		{"name:certificate", "", secrets.ErrDamaged},
		{"name:empty", "", secrets.ErrNoValue},
	} {
		found, err := kmip.NewFinder(o, template(t, c.template)).Lookup(t.Context(), ref)
		if !errors.Is(err, c.err) || err == nil && !found.Equal(secrets.New([]byte(c.value))) {
			t.Errorf("%s: %v", c.template, err)
		}
		if c.template == "name:twins" && !strings.Contains(err.Error(), "2 objects") {
			t.Error(err)
		}
	}
	server.Refuse = func(kmipgo.Operation, string) error { return kmipserver.ErrPermissionDenied }
	storetest.Fails(t, kmip.NewFinder(o, template(t, "id:"+byID)), ref, secrets.ErrDenied, "")
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "name", "name:", "x-:a", "disk:a", "name:{user}", "name:{uuid", "name:}", "Name:a"} {
		if _, err := kmip.ParseTemplate(text); !errors.Is(err, kmip.ErrInvalidTemplate) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
