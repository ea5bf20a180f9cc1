package barbicantest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// maxPage is the largest number of secrets in one page of a list.
const maxPage = 100

// secret is the server's record of a secret.
type secret struct {
	id          uuid.UUID
	project     string
	name        string
	created     time.Time
	contentType string
	payload     []byte
	metadata    map[string]string
}

// Server is a Barbican without authentication, or with one token. Serve it with
// net/http/httptest. Its methods are safe for concurrent use.
type Server struct {
	// Token is the token that requests must carry; "" for none. The Keystone
	// part issues it for Password. Set both before serving.
	Token, Password string

	mu      sync.Mutex
	secrets []*secret
	before  func(http.ResponseWriter, *http.Request) bool
}

// Before makes the server call f first for each request. If f returns true, it
// has written the response. A nil f removes the call.
func (s *Server) Before(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// Age moves a secret's creation time into the past.
func (s *Server) Age(id uuid.UUID, by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.secrets {
		if x.id == id {
			x.created = x.created.Add(-by)
		}
	}
}

func (s *Server) add(project, name, contentType string, payload []byte) *secret {
	made := &secret{id: uuid.New(), project: project, name: name, created: time.Now().UTC(), contentType: contentType, payload: slices.Clone(payload)}
	s.secrets = append(s.secrets, made)
	return made
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	content, err := io.ReadAll(r.Body) // before the lock: the sender may be slow
	if err != nil {
		http.Error(w, "cannot read the request", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/v3/auth/tokens"):
		s.login(w, content)
	case s.Token != "" && r.Header.Get("X-Auth-Token") != s.Token:
		http.Error(w, "Authentication required", http.StatusUnauthorized)
	case s.Token == "" && r.Header.Get("X-Project-Id") == "":
		http.Error(w, "Missing X-Project-Id", http.StatusBadRequest)
	case r.Header.Get("X-Roles") != "":
		http.Error(w, "a role that may do nothing", http.StatusForbidden)
	case len(path) < 2 || path[0] != "v1" || path[1] != "secrets":
		http.NotFound(w, r)
	case len(path) == 2:
		s.all(w, r, content)
	default:
		s.one(w, r, path[2:], content)
	}
}

// login serves Keystone's POST /v3/auth/tokens.
func (s *Server) login(w http.ResponseWriter, content []byte) {
	var asked struct {
		Auth struct {
			Identity struct {
				Password struct {
					User struct{ ID, Password string }
				}
				Credential struct{ ID, Secret string } `json:"application_credential"`
			}
			Scope struct{ Project struct{ ID string } }
		}
	}
	if err := json.Unmarshal(content, &asked); err != nil {
		http.Error(w, "no JSON", http.StatusBadRequest)
		return
	}
	identity := asked.Auth.Identity
	byPassword := identity.Password.User.ID != "" && asked.Auth.Scope.Project.ID != "" && identity.Password.User.Password == s.Password
	if !byPassword && (identity.Credential.ID == "" || identity.Credential.Secret != s.Password) {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	w.Header().Set("X-Subject-Token", s.Token)
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"token":{}}`) // the client may have gone
}

// all serves the project's secrets.
func (s *Server) all(w http.ResponseWriter, r *http.Request, content []byte) {
	project := r.Header.Get("X-Project-Id")
	switch r.Method {
	case http.MethodGet:
		s.list(w, r, project)
	case http.MethodPost:
		var asked struct {
			Name     string
			Payload  string
			Type     string `json:"payload_content_type"`
			Encoding string `json:"payload_content_encoding"`
		}
		err := json.Unmarshal(content, &asked)
		payload := []byte(asked.Payload)
		if err == nil && asked.Encoding == "base64" {
			payload, err = base64.StdEncoding.DecodeString(asked.Payload)
		}
		if err != nil {
			http.Error(w, "no JSON", http.StatusBadRequest)
			return
		}
		made := s.add(project, asked.Name, asked.Type, payload)
		answer(w, http.StatusCreated, map[string]any{"secret_ref": made.ref()})
	default:
		http.Error(w, "no such method", http.StatusMethodNotAllowed)
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, project string) {
	query := r.URL.Query()
	pattern := like(query.Get("name"))
	var found []*secret
	for _, x := range s.secrets {
		if x.project == project && (query.Get("name") == "" || pattern.MatchString(x.name)) {
			found = append(found, x)
		}
	}
	slices.SortStableFunc(found, func(a, b *secret) int { return cmp.Compare(a.created.UnixNano(), b.created.UnixNano()) })
	total := len(found)
	offset, _ := strconv.Atoi(query.Get("offset")) // 0 for nonsense, as Barbican does
	found = found[min(offset, len(found)):]
	items := []any{}
	for _, x := range found[:min(maxPage, len(found))] {
		items = append(items, x.describe())
	}
	answer(w, http.StatusOK, map[string]any{"secrets": items, "total": total})
}

// like returns the regular expression for a pattern of SQL's LIKE.
func like(pattern string) *regexp.Regexp {
	var b strings.Builder
	for _, c := range pattern {
		switch c {
		case '%':
			b.WriteString("(?s:.*)")
		case '_':
			b.WriteString("(?s:.)")
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return regexp.MustCompile("(?i)^" + b.String() + "$")
}

// one serves a secret, its payload or its metadata.
func (s *Server) one(w http.ResponseWriter, r *http.Request, path []string, content []byte) {
	i := slices.IndexFunc(s.secrets, func(x *secret) bool { return x.id.String() == path[0] })
	if i < 0 {
		http.NotFound(w, r)
		return
	}
	x := s.secrets[i]
	switch what := r.Method + " " + strings.Join(path[1:], "/"); what {
	case "GET ":
		answer(w, http.StatusOK, x.describe())
	case "PUT ":
		if len(x.payload) > 0 {
			http.Error(w, "Secret already has data, cannot modify it.", http.StatusConflict)
			return
		}
		const most = 20000
		if len(content) > most {
			http.Error(w, "Provided information too large to process", http.StatusRequestEntityTooLarge)
			return
		}
		x.payload, x.contentType = content, r.Header.Get("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	case "DELETE ":
		s.secrets = slices.Delete(s.secrets, i, i+1)
		w.WriteHeader(http.StatusNoContent)
	case "GET payload":
		if len(x.payload) == 0 {
			http.NotFound(w, r)
			return
		}
		if r.Header.Get("Accept") != x.contentType {
			http.Error(w, "Not Acceptable", http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Type", x.contentType)
		_, _ = w.Write(x.payload) // the client may have gone
	case "GET metadata":
		answer(w, http.StatusOK, map[string]any{"metadata": x.metadata})
	case "PUT metadata":
		var asked struct{ Metadata map[string]string }
		if err := json.Unmarshal(content, &asked); err != nil {
			http.Error(w, "no JSON", http.StatusBadRequest)
			return
		}
		x.metadata = asked.Metadata
		answer(w, http.StatusCreated, map[string]any{})
	default:
		http.Error(w, "no such method: "+what, http.StatusMethodNotAllowed)
	}
}

func (x *secret) ref() string {
	return fmt.Sprintf("https://barbican.example.org:9311/v1/secrets/%s", x.id)
}

func (x *secret) describe() map[string]any {
	out := map[string]any{"secret_ref": x.ref(), "name": x.name, "created": x.created.Format("2006-01-02T15:04:05.000000"), "status": "ACTIVE"}
	if len(x.payload) > 0 {
		out["content_types"] = map[string]string{"default": x.contentType}
	}
	return out
}

// answer writes content as JSON.
func answer(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content) // the client may have gone
}
