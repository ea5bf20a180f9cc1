package libvirtvm

import (
	"fmt"
	"strings"
)

// Finding is one result of a check. In JSON it is what "luksplug hook check" prints.
type Finding struct {
	// Good is true if the check has found no problem.
	Good bool `json:"good"`
	// Unchecked is true if it could not be checked. Text says why.
	Unchecked bool `json:"unchecked,omitempty"`
	// Warning is true if the check has found something that the user should know, and that
	// does not prevent what was checked.
	Warning bool `json:"warning,omitempty"`
	// Text is the finding in human-readable form, on one line.
	Text string `json:"text"`
	// Cause is set for findings that options of the check would change.
	Cause Cause `json:"-"`
}

// Cause tells which option of a check would change a finding.
type Cause string

const (
	// CauseSecretNeeded: [MigrateOptions].Prepare gives QEMU the secret.
	CauseSecretNeeded Cause = "secret needed"
	// CauseUnverified: [Domain.Adopt] signs the record.
	CauseUnverified Cause = "unverified record"
	// CauseNoShell: with [MigrateOptions].Shell luksplug is run on the destination.
	CauseNoShell Cause = "no shell"
)

// Report is the result of a check.
type Report struct {
	Findings []Finding `json:"findings"`
	// RecordKey is the fingerprint of the host's key for records, "" if it was not
	// checked or cannot be used.
	RecordKey string `json:"record_key,omitempty"`
}

// InOrder reports whether no finding is bad.
func (r Report) InOrder() bool {
	for _, f := range r.Findings {
		if !f.Good && !f.Unchecked {
			return false
		}
	}
	return true
}

// Goodf adds that something is in order.
func (r *Report) Goodf(format string, args ...any) { r.add(Finding{Good: true}, format, args) }

// Warnf adds something that the user should know.
func (r *Report) Warnf(format string, args ...any) {
	r.add(Finding{Good: true, Warning: true}, format, args)
}

// Badf adds that something is not in order.
func (r *Report) Badf(format string, args ...any) { r.add(Finding{}, format, args) }

// Uncheckedf adds that something could not be checked.
func (r *Report) Uncheckedf(format string, args ...any) {
	r.add(Finding{Unchecked: true}, format, args)
}

func (r *Report) add(f Finding, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	f.Text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	r.Findings = append(r.Findings, f)
}
