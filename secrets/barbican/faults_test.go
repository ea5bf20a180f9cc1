package barbican_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/barbican"
)

func open(t *testing.T, at *url.URL, o barbican.Options) *barbican.Store {
	t.Helper()
	s := must.Get(barbican.New(at, o))(t)
	return s
}

func words(text string) func() (*secrets.Secret, error) {
	return func() (*secrets.Secret, error) { return secrets.New([]byte(text)), nil }
}

// reveal returns a secret's bytes.
func reveal(t *testing.T, s *secrets.Secret, err error) string {
	t.Helper()
	must.OK(t, err)
	defer s.Wipe()
	text := ""
	must.OK(t, s.Use(func(b []byte) error { text = string(b); return nil }))
	return text
}

// TestAnswers checks that each invalid response gives a specific error that quotes
// nothing of the response.
func TestAnswers(t *testing.T) {
	t.Parallel()
	text := func(status int, content string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, content)
		}
	}
	const list = `{"secrets":[{"secret_ref":"https://x/v1/secrets/%s","name":"","created":%q}],"total":1}`
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
		text    string
	}{
		"unauthorized":      {text(401, "confidential"), secrets.ErrDenied, "?token-file="},
		"forbidden":         {text(403, "confidential"), secrets.ErrDenied, "role"},
		"no list":           {text(404, "confidential"), secrets.ErrUnreachable, "no Barbican"},
		"bad request":       {text(400, "confidential"), secrets.ErrUnreachable, "400"},
		"not acceptable":    {text(406, "confidential"), secrets.ErrUnreachable, "406"},
		"too many requests": {text(429, "confidential"), secrets.ErrUnreachable, "429"},
		"internal error":    {text(500, "confidential"), secrets.ErrUnreachable, "500"},
		"bad gateway":       {text(502, "confidential"), secrets.ErrUnreachable, "502"},
		"versions":          {text(300, `{"versions":{}}`), secrets.ErrUnreachable, "300"},
		"no JSON":           {text(200, "<p>confidential"), secrets.ErrUnreachable, "no Barbican"},
		"other JSON":        {text(200, `["confidential"]`), secrets.ErrUnreachable, "no Barbican"},
		"nothing":           {text(200, ""), secrets.ErrUnreachable, "no Barbican"},
		"an object":         {text(200, "{}"), secrets.ErrUnreachable, "no Barbican"},
		"half an object":    {text(200, `{"secrets":[],"to`), secrets.ErrUnreachable, "no Barbican"},
		"no id":             {text(200, fmt.Sprintf(list, "confidential", "2026-01-02T03:04:05.000006")), secrets.ErrUnreachable, "no Barbican"},
		"no time":           {text(200, fmt.Sprintf(list, uuid.New(), "confidential")), secrets.ErrUnreachable, "no Barbican"},
		"no end": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := io.WriteString(w, `{"secrets":[`); err == nil; {
				_, err = io.WriteString(w, strings.Repeat(" ", 1<<16))
			}
		}, secrets.ErrUnreachable, "longer than"},
		"a long header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("confidential", 1<<14))
		}, secrets.ErrUnreachable, "header"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"secrets":[],"total":0}`)
		}, secrets.ErrUnreachable, "EOF"},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
				_ = conn.Close()
			}
		}, secrets.ErrUnreachable, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &barbicantest.Server{}
			server.Before(func(w http.ResponseWriter, r *http.Request) bool {
				c.handler(w, r)
				return true
			})
			store := open(t, serve(t, server), barbican.Options{Timeout: time.Minute})
			for _, ref := range []secrets.Reference{storetest.ByUUID(), storetest.ByUsage("/x")} {
				value, err := store.Lookup(t.Context(), ref)
				if value != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || errors.Is(err, secrets.ErrNotFound) {
					t.Errorf("got %v", err)
				}
				if err != nil && strings.Contains(err.Error(), "confidential") {
					t.Errorf("the error quotes the server: %v", err)
				}
			}
		})
	}
}

// TestRedirect checks that the target of a redirect receives neither token nor value.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var asked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	t.Cleanup(other.Close)
	server := &barbicantest.Server{Token: "letmein"}
	at := serve(t, server)
	store := open(t, at, barbican.Options{Token: words("letmein\n")})
	d := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), d))
	for _, status := range []int{301, 302, 303, 307, 308} {
		server.Before(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", other.URL+r.URL.Path)
			w.WriteHeader(status)
			return true
		})
		_, lookup := store.Lookup(t.Context(), d.Reference())
		value := secrets.New([]byte("confidential"))
		for _, err := range []error{lookup, store.Set(t.Context(), d.Reference(), value)} {
			if !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), "redirects") {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	if asked.Load() {
		t.Error("the redirect was followed")
	}
}

// TestCredentials tries a token and both methods of Keystone, right and wrong.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const password = "pass \"wörd\"\\\x01\n"
	at := serve(t, &barbicantest.Server{Token: "letmein", Password: password})
	keystone := at.JoinPath("identity", "v3")
	missing := func() (*secrets.Secret, error) { return nil, errors.New("no such file") }
	for name, c := range map[string]struct {
		options barbican.Options
		want    error
		text    string
	}{
		"token":                  {barbican.Options{Token: words("letmein\n")}, nil, ""},
		"wrong token":            {barbican.Options{Token: words("hunter2")}, secrets.ErrDenied, "expired"},
		"no token":               {barbican.Options{Project: "x"}, secrets.ErrDenied, "requires a token"},
		"token is missing":       {barbican.Options{Token: missing}, secrets.ErrLocked, "no such file"},
		"token is empty":         {barbican.Options{Token: words("\n")}, secrets.ErrLocked, "one word"},
		"token with a header":    {barbican.Options{Token: words("hunter2\r\nX: y")}, secrets.ErrLocked, "one word"},
		"password":               {barbican.Options{Login: &barbican.Login{URL: keystone, User: `u"ser`, Project: "p", Secret: words(password)}}, nil, ""},
		"application credential": {barbican.Options{Login: &barbican.Login{URL: keystone, ApplicationCredential: "a", Secret: words(password)}}, nil, ""},
		"wrong password":         {barbican.Options{Login: &barbican.Login{URL: keystone, User: "u", Project: "p", Secret: words("hunter2")}}, secrets.ErrDenied, "Keystone"},
		"wrong credential":       {barbican.Options{Login: &barbican.Login{URL: keystone, ApplicationCredential: "a", Secret: words("hunter2")}}, secrets.ErrDenied, "Keystone"},
		"password is missing":    {barbican.Options{Login: &barbican.Login{URL: keystone, ApplicationCredential: "a", Secret: missing}}, secrets.ErrLocked, "no such file"},
		"password is no text":    {barbican.Options{Login: &barbican.Login{URL: keystone, ApplicationCredential: "a", Secret: words("hunter2\xff")}}, secrets.ErrLocked, "UTF-8"},
		"no Keystone":            {barbican.Options{Login: &barbican.Login{URL: at.JoinPath("v2"), ApplicationCredential: "a", Secret: words(password)}}, secrets.ErrDenied, "Keystone"},
	} {
		store := open(t, at, c.options)
		_, err := store.List(t.Context())
		if !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForeignSecrets checks that secrets of other programs are found by Barbican's
// uuid and by name, and are not modified.
func TestForeignSecrets(t *testing.T) {
	t.Parallel()
	g := barbicantest.NewGateway(t, serve(t, &barbicantest.Server{}))
	barbicantest.TestForeign(t, g)
}

// TestChangesBetweenPages checks that a list of several pages is read again if it
// changes meanwhile, and that List gives up if it keeps changing.
func TestChangesBetweenPages(t *testing.T) {
	t.Parallel()
	server := &barbicantest.Server{}
	g := barbicantest.NewGateway(t, serve(t, server))
	const many = 250
	var ids []uuid.UUID
	for n := range many {
		ids = append(ids, g.Make(t, fmt.Sprintf("volume:/%d", n), "text/plain", fmt.Sprint(n)))
	}
	store := g.Store(t, time.Minute)
	wantListed := func(want int) {
		t.Helper()
		if documents, err := store.List(t.Context()); err != nil || len(documents) != want {
			t.Errorf("listed %d, want %d, %v", len(documents), want, err)
		}
	}
	wantListed(many)
	once := atomic.Bool{}
	server.Before(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("offset") != "99" || once.Swap(true) {
			return false
		}
		g.Unmake(t, ids[3])
		return false
	})
	wantListed(many - 1)
	server.Before(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("offset") == "99" {
			ids = ids[1:]
			g.Unmake(t, ids[4])
		}
		return false
	})
	if _, err := store.List(t.Context()); !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), "faster") {
		t.Error(err)
	}
}

// TestHalfMade checks that remains of a crash are ignored, and removed after a while.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	server := &barbicantest.Server{}
	g := barbicantest.NewGateway(t, serve(t, server))
	store := g.Store(t, time.Minute)
	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/x"}
	must.OK(t, store.Define(t.Context(), d))
	set := func(text string) {
		t.Helper()
		value := secrets.New([]byte(text))
		defer value.Wipe()
		must.OK(t, store.Set(t.Context(), d.Reference(), value))
	}
	set("first")
	half := g.Make(t, "luksplug:"+d.UUID.String(), "text/plain", "never committed")
	value, err := store.Lookup(t.Context(), storetest.ByUsage("/x"))
	if got := reveal(t, value, err); got != "first" {
		t.Errorf("found %q", got)
	}
	set("second")
	value, err = store.Lookup(t.Context(), d.Reference())
	if got := reveal(t, value, err); got != "second" {
		t.Errorf("found %q", got)
	}
	if n := g.Count(t); n != 2 {
		t.Errorf("%d secrets are left, want the current one and the one that another client may be making", n)
	}
	server.Age(half, 2*time.Hour)
	set("third")
	if n := g.Count(t); n != 1 {
		t.Errorf("%d secrets are left, want the current one", n)
	}
	g.Make(t, "luksplug:"+d.UUID.String(), "", "")
	must.OK(t, store.Remove(t.Context(), d.Reference()))
	if n := g.Count(t); n != 0 {
		t.Errorf("%d secrets are left", n)
	}
}

// TestLimits checks that values which Barbican cannot keep are refused, not truncated.
func TestLimits(t *testing.T) {
	t.Parallel()
	store := barbicantest.NewGateway(t, serve(t, &barbicantest.Server{})).Store(t, time.Minute)
	long := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: strings.Repeat("ü", 256)}
	if err := store.Define(t.Context(), long); err == nil || !strings.Contains(err.Error(), "255") {
		t.Error(err)
	}
	long.Usage = long.Usage[2:]
	must.OK(t, store.Define(t.Context(), long))
	big, none := secrets.New(make([]byte, 20001)), secrets.New(nil)
	if err := store.Set(t.Context(), long.Reference(), big); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
	if err := store.Set(t.Context(), long.Reference(), none); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Error(err)
	}
	storetest.Fails(t, store, long.Reference(), secrets.ErrNoValue, "")
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(&barbicantest.Server{})
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs that the client closes the connection
	s.StartTLS()
	t.Cleanup(s.Close)
	at := must.Get(url.Parse(s.URL))(t)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	ctx := context.Background()
	if documents, err := open(t, at, barbican.Options{Project: "x", Roots: roots}).List(ctx); err != nil || documents != nil {
		t.Error(documents, err)
	}
	if _, err := open(t, at, barbican.Options{Project: "x"}).List(ctx); !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), "?ca-file=") {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://kms.example.org:9311/":    "barbican+https://kms.example.org:9311/",
		"https://cloud.example.org/keys":   "barbican+https://cloud.example.org/keys",
		"http://127.0.0.1:9311":            "barbican+http://127.0.0.1:9311",
		"http://[::1]:9311":                "barbican+http://[::1]:9311",
		"http://localhost/":                "barbican+http://localhost/",
		"http://10.0.0.1/":                 "",
		"http://localhost.example.org/":    "",
		"http://127.0.0.1.example.org/":    "",
		"https://user:hunter2@example.org": "",
		"https:///v1":                      "",
		"https://example.org/?x=hunter2":   "",
		"https://example.org/#x":           "",
		"ftp://example.org/":               "",
		"example.org":                      "",
	} {
		at := must.Get(url.Parse(text))(t)
		store, err := barbican.New(at, barbican.Options{})
		switch {
		case want == "" && (!errors.Is(err, barbican.ErrInvalidURL) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: %v", text, err)
		case want != "" && (err != nil || store.String() != want):
			t.Errorf("%s: %v, %v", text, store, err)
		}
	}
	at := &url.URL{Scheme: "https", Host: "example.org"}
	for _, l := range []*barbican.Login{
		{URL: at}, {URL: at, User: "u"}, {URL: at, User: "u", Project: "p", ApplicationCredential: "a"}, {URL: at, Project: "p", ApplicationCredential: "a"},
		{URL: &url.URL{Scheme: "http", Host: "example.org"}, ApplicationCredential: "a"}, {ApplicationCredential: "a"},
	} {
		if _, err := barbican.New(at, barbican.Options{Login: l}); !errors.Is(err, barbican.ErrInvalidURL) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
