package qapi

import (
	"encoding/json"
	"errors"
	"fmt"
)

// DecodeError is an error of package encoding/json in words, without the names of Go types.
type DecodeError struct {
	Text string
	Err  error
}

// Error implements error.
func (e *DecodeError) Error() string { return e.Text }

// Unwrap returns the error of package encoding/json.
func (e *DecodeError) Unwrap() error { return e.Err }

// Unmarshal is [json.Unmarshal]. Its errors are a [*DecodeError], or that of a method
// UnmarshalJSON.
func Unmarshal(text []byte, into any) error {
	err := json.Unmarshal(text, into)
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		return &DecodeError{fmt.Sprintf("the member %s has an unexpected %s", kind.Field, kind.Value), err}
	case errors.As(err, &kind):
		return &DecodeError{fmt.Sprintf("it has an unexpected %s", kind.Value), err}
	case errors.As(err, &syntax):
		return &DecodeError{fmt.Sprintf("it is not valid JSON at byte %d", syntax.Offset), err}
	}
	return err
}
