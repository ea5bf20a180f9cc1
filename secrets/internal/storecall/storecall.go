// Package storecall has helpers for the methods of all key stores.
package storecall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/secrets"
)

// Fail returns err as a StoreError of the store about ref, and nil for nil. If err is a StoreError of an underlying
// store, the name of that store is replaced.
func Fail(store fmt.Stringer, ref secrets.Reference, err error) error {
	if err == nil {
		return nil
	}
	var inner *secrets.StoreError
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return &secrets.StoreError{Store: store.String(), Ref: ref, Err: err}
}

// Bounded runs f with a context that ends after timeout. If f fails because of that, the error wraps
// [secrets.ErrUnreachable] and says that who has not answered; if ctx ends, it wraps ctx.Err(). An error of f that wraps
// [secrets.ErrLocked] is returned unchanged: a prompt that was not answered has a more specific error.
func Bounded(ctx context.Context, timeout time.Duration, who string, f func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := ending.After(ctx, timeout)
	defer cancel()
	err := f(bounded)
	switch {
	case err == nil, bounded.Err() == nil, errors.Is(err, secrets.ErrLocked) && (ctx.Err() == nil || errors.Is(err, ctx.Err())):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s does not answer: %w", who, ctx.Err())
	}
	return fmt.Errorf("%w: %s has not answered after %s", secrets.ErrUnreachable, who, timeout)
}

// Await returns the results of f, or ctx.Err() as soon as ctx ends. f takes no context and then continues in the
// background; if it succeeds later and late is not nil, late is called with its value.
func Await[T any](ctx context.Context, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	go func() {
		var r result
		r.value, r.err = f()
		select {
		case done <- r:
		case <-ctx.Done():
			if r.err == nil && late != nil {
				late(r.value)
			}
		}
	}()
	var none T
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case r := <-done:
		return r.value, r.err
	}
}

// Definable returns an error for a document that no store may define: an invalid one, or one without uuid.
func Definable(d secrets.Document) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if d.UUID == uuid.Nil {
		return fmt.Errorf("%w: it has no uuid", secrets.ErrInvalidDocument)
	}
	return nil
}

// ParseDocument parses the stored document of the secret id; where names its location in errors. The error wraps
// [secrets.ErrDamaged] and not ErrInvalidDocument, which is for documents from the caller.
func ParseDocument(text []byte, id uuid.UUID, where string) (secrets.Document, error) {
	d, err := secrets.ParseDocument(text)
	switch {
	case err != nil:
		return d, fmt.Errorf("%w: %s: %s", secrets.ErrDamaged, where, err.Error())
	case d.UUID != id || id == uuid.Nil:
		return d, fmt.Errorf("%w: %s is the document of another secret, %s", secrets.ErrDamaged, where, d.UUID)
	}
	return d, nil
}

// Template is a text with the placeholders {uuid}, {usage} and {type} for the fields of a reference.
type Template string

// Valid reports whether the text has no other braces.
func (t Template) Valid() bool {
	rest := strings.NewReplacer("{uuid}", "", "{usage}", "", "{type}", "").Replace(string(t))
	return !strings.ContainsAny(rest, "{}")
}

// Expand returns the text for a reference; false if the reference lacks a field that the text needs.
func (t Template) Expand(ref secrets.Reference) (string, bool) {
	id := ""
	if ref.UUID != uuid.Nil {
		id = ref.UUID.String()
	}
	text := string(t)
	if strings.Contains(text, "{uuid}") && id == "" || strings.Contains(text, "{usage}") && ref.Usage == "" {
		return "", false
	}
	return strings.NewReplacer("{uuid}", id, "{usage}", ref.Usage, "{type}", string(ref.Type)).Replace(text), true
}
