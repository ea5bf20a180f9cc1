package secrets

import (
	"errors"
	"testing"

	"github.com/google/uuid"
)

func TestDocumentValidate(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse(someUUID)
	for _, d := range []Document{
		{UUID: id}, {UUID: id, UsageType: UsageVTPM, Usage: "x"}, {UsageType: UsageVolume, Usage: "/x"}, {UUID: id, Description: "ä\n\t"},
	} {
		if err := d.Validate(); err != nil {
			t.Errorf("%+v: %v", d, err)
		}
	}
	for _, d := range []Document{
		{}, {UUID: id, UsageType: "none"}, {UUID: id, UsageType: "passphrase", Usage: "x"}, {UUID: id, Usage: "x"}, {UUID: id, UsageType: UsageTLS},
		{UUID: id, Description: "\x00"}, {UUID: id, Description: "a\rb"}, {UUID: id, UsageType: UsageTLS, Usage: "\xff"}, {UUID: id, Description: "\uffff"},
	} {
		if err := d.Validate(); !errors.Is(err, ErrInvalidDocument) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	id, other := uuid.MustParse(someUUID), uuid.New()
	volume := Document{UUID: id, UsageType: UsageVolume, Usage: "/x"}
	usable := Document{UUID: other}
	byHand := Document{UsageType: UsageCeph, Usage: "/x"}
	documents := []Document{volume, usable, byHand}
	for _, c := range []struct {
		ref  Reference
		want Document
		err  error
	}{
		{Reference{Type: Passphrase, UUID: id}, volume, nil},
		{Reference{Type: Passphrase, Usage: "/x"}, volume, nil},
		{Reference{Type: Ceph, Usage: "/x"}, byHand, nil},
		{Reference{Type: TLS, UUID: other}, usable, nil},
		{Reference{Type: Ceph, UUID: id}, Document{}, ErrWrongType},
		{Reference{Type: TLS, Usage: "/x"}, Document{}, ErrNotFound},
		{Reference{Type: Passphrase, UUID: uuid.New()}, Document{}, ErrNotFound},
		{Reference{Type: Passphrase}, Document{}, ErrNotFound},
	} {
		got, err := Find(documents, c.ref)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%s %s: %+v, %v", c.ref.Type, c.ref, got, err)
		}
	}
	for _, d := range documents {
		if found, err := Find(documents, d.Reference()); err != nil || found != d {
			t.Errorf("%+v is not found by its own reference: %+v, %v", d, found, err)
		}
	}
}

func TestCheckDefine(t *testing.T) {
	t.Parallel()
	old := Document{UUID: uuid.New(), Private: true, UsageType: UsageVolume, Usage: "/x"}
	plain := Document{UUID: uuid.New()}
	documents := []Document{old, plain}
	edited := func(d Document, edit func(*Document)) Document { edit(&d); return d }
	for name, d := range map[string]Document{
		"the same":             old,
		"another description":  edited(old, func(d *Document) { d.Description = "x" }),
		"ephemeral":            edited(old, func(d *Document) { d.Ephemeral = true }),
		"private from now on":  edited(plain, func(d *Document) { d.Private = true }),
		"a new one":            {UUID: uuid.New()},
		"same usage, new type": {UUID: uuid.New(), UsageType: UsageTLS, Usage: "/x"},
		"same type, new usage": {UUID: uuid.New(), UsageType: UsageVolume, Usage: "/y"},
	} {
		if err := CheckDefine(documents, d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, d := range map[string]Document{
		"public again":      edited(old, func(d *Document) { d.Private = false }),
		"another usage":     edited(old, func(d *Document) { d.Usage = "/y" }),
		"another type":      edited(old, func(d *Document) { d.UsageType = UsageTLS }),
		"no usage any more": edited(old, func(d *Document) { d.UsageType, d.Usage = UsageNone, "" }),
		"a usage from now":  edited(plain, func(d *Document) { d.UsageType, d.Usage = UsageTLS, "x" }),
		"usage is taken":    {UUID: uuid.New(), UsageType: UsageVolume, Usage: "/x"},
	} {
		if err := CheckDefine(documents, d); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
