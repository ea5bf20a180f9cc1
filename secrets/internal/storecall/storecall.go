// Package storecall has what the calls of all key stores do in the same way.
package storecall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// Fail returns err as an error of the store about ref, and nil for nil. If err is an error of a store that this one
// is built on, its name is replaced.
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

// Bounded runs f with a context that ends after the timeout. If that is why f fails, the error wraps
// [secrets.ErrUnreachable] and says that who has not answered; if ctx ends, it wraps ctx.Err(). A store that is locked
// stays so: the error of a prompt that was not answered says more.
func Bounded(ctx context.Context, timeout time.Duration, who string, f func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
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

// Await returns what f returns, or ctx.Err() as soon as ctx ends: f takes no context, and then ends on its own. late,
// if it is not nil, is called with the value that f returns without error after that.
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

// Definable returns an error for a document that no store defines: one that does not validate or has no uuid.
func Definable(d secrets.Document) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if d.UUID == uuid.Nil {
		return fmt.Errorf("%w: it has no uuid", secrets.ErrInvalidDocument)
	}
	return nil
}

// ParseDocument reads the document of the secret id that the store keeps in where. The error wraps
// [secrets.ErrDamaged], and not ErrInvalidDocument, which is for documents of the caller.
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

// Template is a text in which {uuid}, {usage} and {type} stand for those of a reference.
type Template string

// Valid reports whether the text has no other braces.
func (t Template) Valid() bool {
	rest := strings.NewReplacer("{uuid}", "", "{usage}", "", "{type}", "").Replace(string(t))
	return !strings.ContainsAny(rest, "{}")
}

// Expand returns the text for a reference; false if it asks for what the reference does not have.
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
