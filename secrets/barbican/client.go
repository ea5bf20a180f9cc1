package barbican

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/luksplug/luksplug/internal/wipe"
	"github.com/luksplug/luksplug/secrets"
)

// maxJSON is the largest response in bytes, except for payloads. A page of 100
// secrets takes some 50 kB.
const maxJSON = 4 << 20

// maxHeader is the largest response header in bytes.
const maxHeader = 64 << 10

var (
	// errConflict: the secret already has a payload.
	errConflict = errors.New("it already has a payload")
	// errNotBarbican: the response is not one of Barbican's.
	errNotBarbican = fmt.Errorf("%w: the server is no Barbican: is the address right?", secrets.ErrUnreachable)
)

// client sends the requests of one call.
type client struct {
	http    *http.Client
	base    *url.URL
	project string
	token   string
	roots   *x509.CertPool

	mu     sync.Mutex
	opened []openedConn
}

// openedConn is a connection whose buffers are cleared at the end of the call.
type openedConn interface {
	io.Closer
	Wipe()
}

func connect(ctx context.Context, base *url.URL, o Options) (*client, error) {
	c := &client{base: base, project: o.Project, roots: o.Roots}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:            c.dial,
			DialTLSContext:         c.dialTLS,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
		},
		// The token must not be sent to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	switch {
	case o.Token != nil:
		c.token, err = readToken(o.Token)
	case o.Login != nil:
		c.token, err = o.Login.token(ctx, c)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// close closes the connections, and clears the buffers in which net/http and crypto/tls
// have had payloads.
func (c *client) close() {
	c.http.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.opened {
		_ = conn.Close() // all responses have been received
		conn.Wipe()
	}
}

func (c *client) keep(conn openedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened = append(c.opened, conn)
}

func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := wipe.NewConn(raw)
	c.keep(conn)
	return conn, nil
}

func (c *client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	below := wipe.NewTLSConn(raw)
	encrypted := tls.Client(below, &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12, ServerName: host})
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the first error counts
		return nil, err
	}
	above := wipe.NewConn(encrypted)
	c.keep(above) // closed first
	c.keep(below)
	return above, nil
}

// readToken returns the token of source without surrounding white space.
func readToken(source func() (*secrets.Secret, error)) (string, error) {
	s, err := source()
	if err != nil {
		return "", fmt.Errorf("%w: its token: %w", secrets.ErrLocked, err)
	}
	defer s.Wipe()
	token := ""
	err = s.Use(func(b []byte) error {
		token = strings.TrimSpace(string(b)) // a header is a string, and editors end files with a newline
		return nil
	})
	if err == nil && (token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })) {
		err = fmt.Errorf("%w: its token is not one word of ASCII", secrets.ErrLocked)
	}
	return token, err
}

// request is one request to the server.
type request struct {
	method string
	at     *url.URL
	accept string
	body   *body // may be nil
	kind   string
}

// at is the URL of a resource.
func (c *client) at(query url.Values, path ...string) *url.URL {
	u := c.base.JoinPath(append([]string{"v1"}, path...)...)
	u.RawQuery = query.Encode()
	return u
}

// do sends a request and returns the response, or an error for a failure status.
// The caller closes the body.
func (c *client) do(ctx context.Context, r request) (*http.Response, error) {
	var reader io.ReadCloser
	if r.body != nil {
		reader = io.NopCloser(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.at.String(), reader)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = int64(r.body.secret.Len())
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(&body{secret: r.body.secret}), nil }
		req.Header.Set("Content-Type", r.kind)
	}
	req.Header.Set("Accept", r.accept)
	req.Header.Set("User-Agent", "luksplug")
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	}
	if c.project != "" {
		req.Header.Set("X-Project-Id", c.project)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	_ = resp.Body.Close() // not read: it may repeat the request
	return nil, c.refusal(resp.StatusCode)
}

// unreachable converts an error of the HTTP client to one of package secrets.
func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL: the store's name contains it
	}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return fmt.Errorf("%w: its certificate: %w: give the file of its authority by ?ca-file=", secrets.ErrUnreachable, verify.Err)
	}
	return fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
}

// refusal is the error for a status of RFC 9110 section 15.
func (c *client) refusal(status int) error {
	switch {
	case status == http.StatusUnauthorized && c.token == "":
		return fmt.Errorf("%w: it requires a token: give ?token-file= or ?keystone=", secrets.ErrDenied)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%w: it does not accept the token, which may have expired: get a new one", secrets.ErrDenied)
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: the token's role does not allow this", secrets.ErrDenied)
	case status == http.StatusNotFound:
		return secrets.ErrNotFound
	case status == http.StatusConflict:
		return errConflict
	case status == http.StatusRequestEntityTooLarge:
		return errors.New("it is larger than the server allows (max_allowed_secret_in_bytes of its configuration)")
	case status/100 == 3:
		return fmt.Errorf("%w: it redirects to another URL, which is not followed: give that URL (HTTP status %d)", secrets.ErrUnreachable, status)
	}
	return fmt.Errorf("%w: HTTP status %d: see the server's log", secrets.ErrUnreachable, status)
}

// json sends a request and decodes the JSON response to into.
func (c *client) json(ctx context.Context, r request, into any) error {
	r.accept = "application/json"
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	if into == nil {
		return nil
	}
	limited := &io.LimitedReader{R: resp.Body, N: maxJSON + 1}
	text, err := io.ReadAll(limited)
	switch {
	case err != nil:
		return unreachable(err)
	case limited.N == 0:
		return fmt.Errorf("%w: its response is longer than %d bytes", secrets.ErrUnreachable, maxJSON)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errNotBarbican // the decoder's error could quote the response
	}
	return nil
}

// body is the content of a request: it reads a secret without an unwiped copy. The HTTP client may continue to read
// it after the request; once the secret is wiped, reading fails.
type body struct {
	secret *secrets.Secret
	at     int
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (n int, err error) {
	err = b.secret.Use(func(value []byte) error {
		if b.at >= len(value) {
			return io.EOF
		}
		n = copy(p, value[b.at:])
		b.at += n
		return nil
	})
	return n, err
}
