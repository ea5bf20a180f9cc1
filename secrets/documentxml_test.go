package secrets_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

func ExampleParseDocument() {
	d, err := secrets.ParseDocument([]byte(`<secret private="yes"><usage type="ceph"><name>client.vm1</name></usage>
		<uuid>0A81F5B284034B2388D621CCC2F80D6F</uuid></secret>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Private, d.UsageType, d.Usage)
	fmt.Print(string(d.XML()))
	// Output:
	// true ceph client.vm1
	// <secret ephemeral='no' private='yes'>
	//   <uuid>0a81f5b2-8403-4b23-88d6-21ccc2f80d6f</uuid>
	//   <usage type='ceph'>
	//     <name>client.vm1</name>
	//   </usage>
	// </secret>
}

const id = "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"

func TestParseDocument(t *testing.T) {
	t.Parallel()
	u := uuid.MustParse(id)
	for text, want := range map[string]secrets.Document{
		`<secret><uuid>` + id + `</uuid></secret>`: {UUID: u},
		`<?xml version="1.0"?><!-- c --><secret ephemeral='yes' private='no'><!-- c --><uuid> ` + id + ` </uuid></secret>`:    {UUID: u, Ephemeral: true},
		`<secret><usage type='none'/><uuid>` + id + `</uuid></secret>`:                                                        {UUID: u},
		`<secret><description/><uuid>` + id + `</uuid></secret>`:                                                              {UUID: u},
		`<secret><description> a &lt;b&gt;&#x26;<![CDATA[ <c>]]>` + "\n" + `d </description><uuid>` + id + `</uuid></secret>`: {UUID: u, Description: " a <b>& <c>\nd "},
		`<secret><uuid>` + id + `</uuid><usage type="volume"><volume>/a b</volume></usage></secret>`:                          {UUID: u, UsageType: "volume", Usage: "/a b"},
		`<secret><uuid>` + id + `</uuid><usage type="iscsi"><target>t</target></usage></secret>`:                              {UUID: u, UsageType: "iscsi", Usage: "t"},
		`<secret><uuid>` + id + `</uuid><usage type="vtpm"><name>ü</name></usage></secret>`:                                   {UUID: u, UsageType: "vtpm", Usage: "ü"},
		`<secret><uuid>` + id + `</uuid><usage type="tls"><name> n</name></usage></secret>`:                                   {UUID: u, UsageType: "tls", Usage: " n"},
	} {
		got, err := secrets.ParseDocument([]byte(text))
		if err != nil || got != want {
			t.Errorf("%s:\n%+v, %v, want\n%+v", text, got, err, want)
		}
	}
	without, err := secrets.ParseDocument([]byte("<secret/>"))
	if err != nil || without != (secrets.Document{}) {
		t.Errorf("without a uuid: %+v, %v", without, err)
	}
}

func TestDocumentRefusals(t *testing.T) {
	t.Parallel()
	in := func(s string) string { return "<secret><uuid>" + id + "</uuid>" + s + "</secret>" }
	for text, names := range map[string]string{
		"":                              "no element",
		"secret":                        "text is outside",
		"<secret>":                      "unexpected EOF",
		"<disk/>":                       "<disk>",
		"<secret/><secret/>":            "second element <secret>",
		"<secret privat='yes'/>":        "did you mean private?",
		"<secret><uid>x</uid></secret>": "did you mean uuid?",
		"<?xml version='1.0' encoding='koi8-r'?><secret/>":            "koi8-r",
		"<secret private='true'/>":                                    `private="true"`,
		"<secret private=''/>":                                        `private=""`,
		"<secret private='yes' private='no'/>":                        "private= is given twice",
		"<secret x:private='yes'/>":                                   "private=",
		"<secret xmlns='urn:x'/>":                                     "namespace",
		"<!DOCTYPE secret><secret/>":                                  "<!DOCTYPE>",
		in("<uuid>" + id + "</uuid>"):                                 "second <uuid>",
		"<secret><uuid>x</uuid></secret>":                             "not a uuid",
		"<secret><uuid/></secret>":                                    "not a uuid",
		"<secret><uuid a='b'>" + id + "</uuid></secret>":              "a=",
		"<secret><uuid><b/>" + id + "</uuid></secret>":                "<secret/uuid/b>",
		in("<private/>"):                                              "<secret/private>",
		in("text"):                                                    "text",
		in("<usage/>"):                                                "type=",
		in("<usage type='disk'/>"):                                    `type="disk"`,
		in("<usage type='volume'/>"):                                  "<volume>",
		in("<usage type='volume'><volume/></usage>"):                  "<volume>",
		in("<usage type='volume'><name>x</name></usage>"):             "<secret/usage/name>",
		in("<usage type='iscsi'><name>x</name></usage>"):              "<secret/usage/name>",
		in("<usage type='none'><name>x</name></usage>"):               "<secret/usage/name>",
		in("<usage type='ceph'><name>x</name><name>y</name></usage>"): "second <name>",
		in("<usage type='ceph'><name>x</name>y</usage>"):              "text",
		in("<usage type='ceph'><name>x</name></usage><usage type='ceph'><name>x</name></usage>"): "second <usage>",
		in("<description>a</description><description>a</description>"):                           "second <description>",
		in("<description>a\x01</description>"):                                                   "illegal character",
		in("<description>&auml;</description>"):                                                  "invalid character entity",
		in("<description>a&#13;b</description>"):                                                 "the description",
		in(strings.Repeat("<description>", 10) + strings.Repeat("</description>", 10)):           "<secret/description/description>",
		in("<description>" + strings.Repeat("x", 1<<20) + "</description>"):                      "bytes",
	} {
		d, err := secrets.ParseDocument([]byte(text))
		if !errors.Is(err, secrets.ErrInvalidDocument) || d != (secrets.Document{}) {
			t.Errorf("%.100s: %+v, %v", text, d, err)
			continue
		}
		if !strings.Contains(err.Error(), names) {
			t.Errorf("%.100s: the error does not contain %s: %v", text, names, err)
		}
	}
}

func TestDocumentErrorsSayTheLine(t *testing.T) {
	t.Parallel()
	_, err := secrets.ParseDocument([]byte("<secret>\n  <uuid>" + id + "</uuid>\n  <pirvate/>\n</secret>\n"))
	if err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Error(err)
	}
}

// TestDocumentErrorsShowNoSecret: a value that the user has written into the document is in no error.
func TestDocumentErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"<secret>hunter2</secret>", "<secret><value>hunter2</value></secret>", "<secret><uuid>hunter2</uuid></secret>", "<secret value='hunter2'/>",
		"<secret><passphrase value='hunter2'/></secret>", "<secret>x&hunter2;</secret>", "<secret>x<hunter2</secret>", "<secret>x</hunter2>", "hunter2", "<secret/>hunter2",
		"<secret><usage type='volume'>hunter2<volume>/a</volume></usage></secret>", "<secret><usage type='volume' value='hunter2'/></secret>",
		"<secret><uuid>" + id + "</uuid><description>a<b>hunter2</b></description></secret>", "<secret xmlns='hunter2'/>", "<secret xmlns:x='hunter2' x:a='b'/>",
		"<secret><uuid>" + id + "</uuid><usage type='volume'><volume>a\rhunter2&#13;</volume></usage></secret>",
	} {
		if d, err := secrets.ParseDocument([]byte(text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %+v, %v", text, d, err)
		}
	}
}

// TestDocumentEncodings: documents as editors of other systems write them.
func TestDocumentEncodings(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"\ufeff<secret><description>\u00e9</description></secret>",
		"<?xml version='1.0' encoding='ISO-8859-1'?><secret><description>\xe9</description></secret>",
		"\xff\xfe<\x00s\x00e\x00c\x00r\x00e\x00t\x00>\x00<\x00d\x00e\x00s\x00c\x00r\x00i\x00p\x00t\x00i\x00o\x00n\x00>\x00\xe9\x00<\x00/\x00d\x00e\x00s\x00c\x00r\x00i\x00p\x00t\x00i\x00o\x00n\x00>\x00<\x00/\x00s\x00e\x00c\x00r\x00e\x00t\x00>\x00",
	} {
		if d, err := secrets.ParseDocument([]byte(text)); err != nil || d.Description != "\u00e9" {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add("<secret ephemeral='no' private='yes'><uuid>" + id + "</uuid><description>a&amp;b</description><usage type='volume'><volume>/x</volume></usage></secret>")
	f.Add("<secret><usage type='none'/></secret>")
	f.Add("<secret><description>\r\n\t</description></secret>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := secrets.ParseDocument([]byte(text))
		if err != nil {
			if !errors.Is(err, secrets.ErrInvalidDocument) {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := secrets.ParseDocument(d.XML())
		if err != nil || again != d {
			t.Errorf("%+v was written as %s and reads as %+v, %v", d, d.XML(), again, err)
		}
	})
}
