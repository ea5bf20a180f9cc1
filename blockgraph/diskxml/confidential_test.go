package diskxml_test

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// TestErrorsShowNoSecret: a passphrase or key that the user has written into the XML, where libvirt wants the name of a
// secret, is in no error and no warning, however the elements around it are written.
func TestErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	uuid := "uuid='" + blocktest.AnyUUID + "'"
	inside := []string{ // of <encryption>
		"<secret type='passphrase'>hunter2</secret>", "<secret type='passphrase' " + uuid + ">hunter2</secret>", "<secret type='passphrase' uuid='hunter2'/>",
		"<secret type='passphrase' value='hunter2' " + uuid + "/>", "<secret type='passphrase' " + uuid + "><value>hunter2</value></secret>",
		"<secret type='passphrase' " + uuid + "/>hunter2", "<passphrase>hunter2</passphrase>", "<key>hunter2</key>", "<secert type='passphrase'>hunter2</secert>",
		"<secret type='passphrase'>x&hunter2;</secret>", "<secret type='passphrase'>x&hunter2</secret>", "<secret type='passphrase'>x<hunter2</secret>",
		"<secret type='passphrase'>x<hunter2></secret>", "<secret type='passphrase'>x</hunter2>", "<secret type='passphrase' xmlns='hunter2' " + uuid + "/>",
		"<secret type='passphrase' " + uuid + "/><header>hunter2<source file='/h'/></header>", "<secret type='passphrase' " + uuid + "/><header><source file='/h'>hunter2</source></header>",
		"<![CDATA[hunter2]]>",
	}
	var docs []string
	for _, text := range inside {
		for _, name := range []string{"encryption", "Encryption", "encryptjon"} {
			element := "<" + name + " format='luks'>" + text + "</" + name + ">"
			docs = append(docs, blocktest.DiskAt("dev='vdb'", element), "<disk><source file='/a'>"+element+"</source><target dev='vdb'/></disk>")
		}
	}
	server := func(protocol, inner string) string {
		return "<disk type='network'><source protocol='" + protocol + "' name='p/i'><host name='h'/>" + inner + "</source><target dev='vdb'/></disk>"
	}
	for _, protocol := range []string{"rbd", "iscsi", "https"} {
		docs = append(docs, server(protocol, "<auth username='u'><secret type='ceph'>hunter2</secret></auth>"), server(protocol, "<auth username='u' password='hunter2'/>"),
			server(protocol, "<auth username='u'>hunter2</auth>"), server(protocol, "<auth username='u'><secret type='ceph' uuid='hunter2'/></auth>"),
			server(protocol, "<auth username='u'><password>hunter2</password></auth>"), server(protocol, "<cookies>hunter2</cookies>"),
			server(protocol, "<cookies><cookie value='hunter2'/></cookies>"), server(protocol, "<atuh username='u'>hunter2</atuh>"))
	}
	for _, doc := range docs {
		for _, options := range []diskxml.ParseOptions{{}, {IgnoreUnknown: true}} {
			d, err := options.ParseDisk([]byte(doc))
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s\n%v", doc, err)
			}
			if err == nil && strings.Contains(strings.Join(d.Warnings(), "\n"), "hunter2") {
				t.Errorf("%s\n%v", doc, d.Warnings())
			}
		}
	}
	pool := "<pool type='rbd'><name>p</name><source><host name='h'/><auth type='chap' username='u'>"
	for _, inner := range []string{"<secret uuid='hunter2'/>", "<secret>x&hunter2;</secret>", "<secret>x<hunter2></secret>"} {
		if _, err := diskxml.ParsePool([]byte(pool + inner + "</auth></source></pool>")); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("pool: %s: %v", inner, err)
		}
	}
	if _, err := diskxml.ParseDomain([]byte("<domain><devices><graphics passwd='x&hunter2'/></devices></domain>")); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("domain: %v", err)
	}
}
