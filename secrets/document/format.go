package document

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// escaper writes text as libvirt does, quotation marks included. A carriage return
// would be read as a newline (XML 1.0 section 2.11); documents hold none.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

// Format writes d as libvirt's virsh secret-dumpxml does. d must validate, but
// for a document that has no uuid yet.
func Format(d secrets.Document) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "<secret ephemeral='%s' private='%s'>\n", yesNo(d.Ephemeral), yesNo(d.Private))
	if d.UUID != uuid.Nil {
		fmt.Fprintf(&b, "  <uuid>%s</uuid>\n", d.UUID)
	}
	if d.Description != "" {
		fmt.Fprintf(&b, "  <description>%s</description>\n", escaper.Replace(d.Description))
	}
	if d.UsageType != secrets.UsageNone {
		name := nameElement(d.UsageType)
		fmt.Fprintf(&b, "  <usage type='%s'>\n    <%s>%s</%s>\n  </usage>\n", d.UsageType, name, escaper.Replace(d.Usage), name)
	}
	b.WriteString("</secret>\n")
	return []byte(b.String())
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
