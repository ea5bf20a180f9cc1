package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// adoptOptions are the flags of repair that concern records.
type adoptOptions struct{ adopt, yes bool }

func (o adoptOptions) check(f *flags) error {
	switch {
	case o.yes && !o.adopt:
		return &usageError{errors.New("--yes confirms --adopt, which is not given")}
	case o.adopt && f.domain == "":
		return &usageError{errors.New("--adopt signs the record of a libvirt domain: give --domain")}
	}
	return nil
}

// adoptionJSON is a record that is to be signed.
type adoptionJSON struct {
	Where    string             `json:"where"` // live, persistent or saved
	Problem  string             `json:"problem,omitempty"`
	User     string             `json:"user,omitempty"`
	ColdPlug bool               `json:"cold_plug"`
	Disks    []recordedDiskJSON `json:"disks"`
}

type recordedDiskJSON struct {
	Target  string   `json:"target"`
	Images  []string `json:"images"`
	Secrets []string `json:"secrets"`
	Devices []string `json:"devices"`
	Options []string `json:"options"`
	XML     string   `json:"xml"`
	Problem string   `json:"problem,omitempty"`
}

// runAdopt shows the records of a domain, and signs those that do not verify.
func runAdopt(ctx context.Context, a *app, o adoptOptions) error {
	return withDomain(ctx, a, a.flags.domain, func(ctx context.Context, d *libvirtvm.Domain) error {
		all, err := d.Adoptions(ctx)
		if err != nil {
			return err
		}
		needed := false
		out := []adoptionJSON{}
		var text strings.Builder
		for _, one := range all {
			needed = needed || one.Reason != nil
			out = append(out, adoptionToJSON(one))
			describeAdoption(&text, one)
		}
		if !needed {
			text.WriteString("there is nothing to sign\n")
		}
		if err := a.show(text.String(), struct {
			Records []adoptionJSON `json:"records"`
			Signed  bool           `json:"signed"`
		}{out, needed && o.yes}); err != nil || !needed {
			return err
		}
		if !o.yes {
			if err := confirm(ctx, a, "sign this for "+a.flags.domain); err != nil {
				return err
			}
		}
		return d.Adopt(ctx, all)
	})
}

func adoptionToJSON(a libvirtvm.Adoption) adoptionJSON {
	out := adoptionJSON{Where: string(a.Scope), Problem: problem(a.Reason), User: a.User, ColdPlug: a.ColdPlug, Disks: []recordedDiskJSON{}}
	for _, d := range a.Disks {
		out.Disks = append(out.Disks, recordedDiskJSON{d.Target, orEmpty(d.Images), orEmpty(d.Secrets), orEmpty(d.Devices), orEmpty(d.Options), d.XML, problem(d.Problem)})
	}
	return out
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func orEmpty(s []string) []string { return append([]string{}, s...) }

// describeAdoption writes a record in human-readable form. Its author may have put
// anything into it, so control characters are escaped.
func describeAdoption(w *strings.Builder, a libvirtvm.Adoption) {
	state := "signed"
	if a.Reason != nil {
		state = a.Reason.Error()
	}
	line := func(name, value string) { fmt.Fprintf(w, "  %-8s %s\n", name, escaped(value)) }
	fmt.Fprintf(w, "%s record: %s\n", a.Scope, escaped(state))
	if a.User != "" {
		line("user", a.User)
	}
	if a.ColdPlug {
		line("options", "cold-plug")
	}
	for _, d := range a.Disks {
		fmt.Fprintf(w, "  disk %s\n", escaped(d.Target))
		for _, part := range []struct {
			name   string
			values []string
		}{{"image", d.Images}, {"secret", d.Secrets}, {"device", d.Devices}, {"option", d.Options}} {
			for _, value := range part.values {
				line("  "+part.name, value)
			}
		}
		for xml := range strings.Lines(d.XML) {
			line("  xml", strings.TrimRight(xml, "\r\n"))
		}
		if d.Problem != nil {
			line("  refused", d.Problem.Error())
		}
	}
}

// escaped returns text with control characters escaped.
func escaped(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
