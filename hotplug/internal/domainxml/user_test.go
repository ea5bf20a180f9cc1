package domainxml_test

import (
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
)

func TestParseUser(t *testing.T) {
	t.Parallel()
	if c, err := domainxml.ParseUser("+64055:+994"); err != nil || c.UID != 64055 || c.GID != 994 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []string{"", "root:root", "+1", "+1:", "+-1:+1"} {
		if c, err := domainxml.ParseUser(wrong); err == nil {
			t.Errorf("%q: %+v", wrong, c)
		}
	}
}
