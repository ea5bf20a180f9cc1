package barbicantest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/barbican"
)

// Gateway is a reverse proxy to a Barbican. It can hang, close, or remove the
// client's rights.
type Gateway struct {
	URL     *url.URL
	Project string // a new, empty project
	server  *httptest.Server
	up      *url.URL
	ended   chan struct{}
	mu      sync.Mutex
	hung    bool
	denied  bool
}

// NewGateway returns a gateway to the Barbican at up, which must not require
// authentication. The gateway is closed when the test ends.
func NewGateway(t testing.TB, up *url.URL) *Gateway {
	t.Helper()
	g := &Gateway{Project: uuid.NewString(), up: up, ended: make(chan struct{})}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(up) }}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		hung, denied := g.hung, g.denied
		g.mu.Unlock()
		if hung {
			select {
			case <-r.Context().Done():
			case <-g.ended:
			}
			return
		}
		if denied && strings.HasSuffix(r.URL.Path, "/payload") {
			r.Header.Set("X-Roles", "audit")
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		close(g.ended)
		g.server.Close()
	})
	var err error
	if g.URL, err = url.Parse(g.server.URL); err != nil {
		t.Fatal(err)
	}
	return g
}

// Store returns a store of the project, through the gateway.
func (g *Gateway) Store(t testing.TB, timeout time.Duration) *barbican.Store {
	t.Helper()
	s := must.Get(barbican.New(g.URL, barbican.Options{Project: g.Project, Timeout: timeout}))(t)
	return s
}

// Hang makes the gateway accept requests and never reply.
func (g *Gateway) Hang() { g.set(&g.hung) }

// Deny sends requests with the role audit, which may not read payloads.
func (g *Gateway) Deny() { g.set(&g.denied) }

// Close closes the gateway's listener.
func (g *Gateway) Close() { _ = g.server.Listener.Close() }

func (g *Gateway) set(what *bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	*what = true
}

// request sends a request directly to the server.
func (g *Gateway) request(t testing.TB, method, path, content string, into any) {
	t.Helper()
	req := must.Get(http.NewRequestWithContext(t.Context(), method, g.up.JoinPath("v1", "secrets").String()+path, strings.NewReader(content)))(t)
	req.Header.Set("X-Project-Id", g.Project)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must.OK(t, err)
	defer func() { _ = resp.Body.Close() }() // it has been read
	var answer bytes.Buffer
	if _, err = answer.ReadFrom(resp.Body); err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, &answer)
	}
	if into == nil {
		return
	}
	must.OK(t, json.Unmarshal(answer.Bytes(), into))
}

// Make creates a secret as another program does, and returns its uuid in Barbican.
// The payload is text for the content type text/plain, and base64 for
// application/octet-stream.
func (g *Gateway) Make(t testing.TB, name, contentType, payload string) uuid.UUID {
	t.Helper()
	content := map[string]string{"name": name}
	if contentType != "" {
		content["payload"], content["payload_content_type"] = payload, contentType
	}
	if contentType == "application/octet-stream" {
		content["payload_content_encoding"] = "base64"
	}
	text := must.Get(json.Marshal(content))(t)
	var made struct {
		Ref string `json:"secret_ref"`
	}
	g.request(t, http.MethodPost, "", string(text), &made)
	id := must.Get(uuid.Parse(made.Ref[strings.LastIndex(made.Ref, "/")+1:]))(t)
	return id
}

// Damage corrupts the stored data of the secret that luksplug has defined with
// that uuid.
func (g *Gateway) Damage(t testing.TB, id uuid.UUID) {
	t.Helper()
	var page struct {
		Secrets []struct {
			Ref string `json:"secret_ref"`
		}
	}
	g.request(t, http.MethodGet, "?name=luksplug:"+id.String(), "", &page)
	if len(page.Secrets) != 1 {
		t.Fatalf("%d secrets of that name", len(page.Secrets))
	}
	ref := page.Secrets[0].Ref
	g.request(t, http.MethodPut, ref[strings.LastIndex(ref, "/"):]+"/metadata", fmt.Sprintf(`{"metadata":{"uuid":%q,"generation":"many"}}`, id), nil)
}

// Unmake deletes a secret as another program does.
func (g *Gateway) Unmake(t testing.TB, id uuid.UUID) {
	t.Helper()
	g.request(t, http.MethodDelete, "/"+id.String(), "", nil)
}

// Count returns the number of secrets in the project, in any state.
func (g *Gateway) Count(t testing.TB) int {
	t.Helper()
	var page struct{ Total int }
	g.request(t, http.MethodGet, "", "", &page)
	return page.Total
}

// Fixture returns a fixture for the suite of all key stores on the Barbican at up,
// which must not require authentication.
func Fixture(t *testing.T, up *url.URL) storetest.Fixture {
	t.Helper()
	g := NewGateway(t, up)
	timeout := 3 * time.Minute // the server handles one request at a time, and the machine may be busy
	if strings.HasSuffix(t.Name(), "/hanging") {
		timeout = time.Second
	}
	return storetest.Fixture{
		Store:      g.Store(t, timeout),
		Reopen:     func(t *testing.T) secrets.Store { return g.Store(t, timeout) },
		Deny:       func(*testing.T, secrets.Reference) { g.Deny() },
		Break:      func(*testing.T) { g.Close() },
		Hang:       func(*testing.T) { g.Hang() },
		Damage:     func(t *testing.T, ref secrets.Reference) { g.Damage(t, ref.UUID) },
		Persistent: true,
		NoLocks:    true,
	}
}
