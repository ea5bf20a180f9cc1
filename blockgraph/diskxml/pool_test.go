package diskxml_test

import (
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

func TestParsePoolRefuses(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"", "<pool/>", "<pool type='dir'/>", "<disk/>", "<pool type='iscsi'><name>a</name><source><host name='h' port='x'/></source></pool>",
		"<pool type='iscsi'><name>a</name><source><auth type='chap' username='u'><secret uuid='x'/></auth></source></pool>",
		"<pool type='iscsi'><name>a</name><source><auth type='chap' username='u'><secret/></auth></source></pool>"} {
		p, err := diskxml.ParsePool([]byte(doc))
		if err == nil {
			t.Errorf("%s: accepted as %+v", doc, p)
			continue
		}
		blocktest.Typed(t, err)
	}
}
