package secrets

import (
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/internal/similar"
)

// NotFoundError is an [ErrNotFound] that says where the secret was looked for, or what
// there is that its reference may mean.
type NotFoundError struct {
	Detail string // names files and references, which are not secret
}

// Error implements error.
func (e *NotFoundError) Error() string { return ErrNotFound.Error() + ": " + e.Detail }

// Unwrap returns [ErrNotFound].
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// MissingFrom returns the error for a secret that none of the stores has. failed are their
// errors, each of which wraps [ErrNotFound].
func MissingFrom(stores []Store, ref Reference, failed []error) error {
	var named *StoreError
	if len(failed) == 1 && errors.As(failed[0], &named) {
		return failed[0]
	}
	var details []string
	for _, err := range failed {
		var missing *NotFoundError
		if errors.As(err, &missing) && errors.As(err, &named) {
			details = append(details, named.Store+": "+missing.Detail)
		}
	}
	err := ErrNotFound
	if len(details) > 0 {
		err = &NotFoundError{Detail: strings.Join(details, "; ")}
	}
	return &StoreError{Store: Chain(stores...).String(), Ref: ref, Err: err}
}

// notAmong is the error for a reference that none of the documents answers.
func notAmong(documents []Document, ref Reference) error {
	var usages, ids []string
	for _, d := range documents {
		switch {
		case ref.Usage == "":
			ids = append(ids, d.UUID.String())
		case d.Usage == "":
		case d.Usage == ref.Usage:
			return &NotFoundError{Detail: fmt.Sprintf("the usage %q is that of a secret of type %s, and a reference of type %s needs one of type %s", d.Usage, d.UsageType, ref.Type, ref.Type.UsageType())}
		case d.UsageType == ref.Type.UsageType():
			usages = append(usages, d.Usage)
		}
	}
	if meant := similar.Misspelt(ref.Usage, usages); meant != "" {
		return &NotFoundError{Detail: fmt.Sprintf("did you mean the usage %q?", meant)}
	}
	if meant := similar.Misspelt(ref.UUID.String(), ids); meant != "" {
		return &NotFoundError{Detail: fmt.Sprintf("did you mean the uuid %s?", meant)}
	}
	if len(documents) == 0 {
		return &NotFoundError{Detail: "the key store is empty"}
	}
	return ErrNotFound
}
