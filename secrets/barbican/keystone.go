package barbican

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/luksplug/luksplug/secrets"
)

// Login has the credentials for a token from Keystone, OpenStack's Identity service
// (https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management).
// Either ApplicationCredential is set, or User and Project.
type Login struct {
	URL                   *url.URL // with the version: https://HOST:5000/v3
	ApplicationCredential string   // its id
	User, Project         string   // ids
	// Secret returns the application credential's secret, or the user's
	// password. The store wipes it.
	Secret func() (*secrets.Secret, error)
}

func (l *Login) check() error {
	if l.URL == nil {
		return fmt.Errorf("%w: of Keystone: it is missing", ErrInvalidURL)
	}
	if err := checkURL(l.URL); err != nil {
		return fmt.Errorf("of Keystone: %w", err)
	}
	if (l.ApplicationCredential == "") == (l.User == "" || l.Project == "") || l.ApplicationCredential != "" && l.User+l.Project != "" {
		return fmt.Errorf("%w: to log in to Keystone, give an application credential, or a user and a project, by their ids", ErrInvalidURL)
	}
	return nil
}

// token gets a token. The call's time-out applies.
func (l *Login) token(ctx context.Context, c *client) (string, error) {
	secret, err := l.Secret()
	if err != nil {
		return "", fmt.Errorf("%w: the secret for Keystone: %w", secrets.ErrLocked, err)
	}
	defer secret.Wipe()
	text, err := l.request(secret)
	if err != nil {
		return "", err
	}
	defer text.Wipe()
	resp, err := c.do(ctx, request{method: http.MethodPost, at: l.URL.JoinPath("auth", "tokens"), accept: "application/json", kind: "application/json", body: &body{secret: text}})
	switch {
	case errors.Is(err, secrets.ErrDenied):
		return "", fmt.Errorf("%w: Keystone does not accept the credential", secrets.ErrDenied)
	case errors.Is(err, secrets.ErrNotFound):
		return "", fmt.Errorf("%w: the server is no Keystone: is the address right, with /v3?", secrets.ErrUnreachable)
	case err != nil:
		return "", fmt.Errorf("get a token from Keystone: %w", err)
	}
	_ = resp.Body.Close() // the token is in the header
	token := resp.Header.Get("X-Subject-Token")
	if token == "" {
		return "", fmt.Errorf("%w: the response of Keystone has no token", secrets.ErrUnreachable)
	}
	return token, nil
}

// request returns the body of the request for a token. encoding/json would leave
// unwiped copies of the secret.
func (l *Login) request(secret *secrets.Secret) (*secrets.Secret, error) {
	before, after := `{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":`, `}}}}`
	id := l.ApplicationCredential
	if id == "" {
		before, id = `{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":`, l.User
		after = string(quote([]byte(`}}},"scope":{"project":{"id":`), []byte(l.Project))) + `}}}}`
	}
	member := `,"secret":`
	if l.ApplicationCredential == "" {
		member = `,"password":`
	}
	var out *secrets.Secret
	err := secret.Use(func(value []byte) error {
		if !utf8.Valid(value) {
			return fmt.Errorf("%w: the secret for Keystone is not UTF-8", secrets.ErrLocked)
		}
		const perByte = 6 // as \u001f
		text := make([]byte, 0, len(before)+len(member)+len(after)+perByte*(len(id)+len(value)))
		text = append(quote(append(text, before...), []byte(id)), member...)
		text = append(quote(text, value), after...)
		out = secrets.New(text)
		return nil
	})
	return out, err
}

// quote appends value to to as a JSON string (RFC 8259 section 7).
func quote(to, value []byte) []byte {
	const hexDigits = "0123456789abcdef"
	to = append(to, '"')
	for _, c := range value {
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = append(to, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}
