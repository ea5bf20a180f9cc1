package barbican

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// item is a secret as Barbican describes it.
type item struct {
	id          uuid.UUID
	name        string
	contentType string // of the payload; "" without payload
	created     time.Time
}

// itemJSON is the server's JSON for a secret; see the API reference in the package comment.
type itemJSON struct {
	Ref          string            `json:"secret_ref"`
	Name         string            `json:"name"`
	Created      string            `json:"created"`
	ContentTypes map[string]string `json:"content_types"`
}

func (j itemJSON) item() (item, error) {
	// The rest of the href may be an address internal to the server.
	id, err := secrets.ParseUUID(path.Base(j.Ref))
	if err != nil {
		return item{}, errNotBarbican
	}
	const isoformat = "2006-01-02T15:04:05.999999999"
	created, err := time.Parse(isoformat, j.Created)
	if err != nil {
		created, err = time.Parse(time.RFC3339, j.Created)
	}
	if err != nil {
		return item{}, errNotBarbican
	}
	return item{id, j.Name, j.ContentTypes["default"], created}, nil
}

type pageJSON struct {
	Secrets []itemJSON `json:"secrets"`
	Total   *int       `json:"total"`
}

// list returns the secrets of the project, or those whose name matches the pattern
// name. Each page begins with the last secret of the previous page, which shows
// whether other clients have removed or added secrets in the meantime.
func (c *client) list(ctx context.Context, name string) ([]item, error) {
	const perPage = 100 // the server may return fewer
	query := url.Values{"limit": {strconv.Itoa(perPage)}, "sort": {"created:asc"}}
	if name != "" {
		query.Set("name", name)
	}
	var all []item
	for {
		query.Set("offset", strconv.Itoa(max(0, len(all)-1)))
		var page pageJSON
		err := c.json(ctx, request{method: http.MethodGet, at: c.at(query, "secrets")}, &page)
		switch {
		case errors.Is(err, secrets.ErrNotFound):
			return nil, errNotBarbican // a project without secrets has an empty list
		case err != nil:
			return nil, err
		case page.Total == nil:
			return nil, errNotBarbican
		}
		var items []item
		for _, j := range page.Secrets {
			i, err := j.item()
			if err != nil {
				return nil, err
			}
			items = append(items, i)
		}
		if len(all) > 0 {
			if len(items) == 0 || items[0].id != all[len(all)-1].id {
				return nil, errChanged
			}
			items = items[1:]
		}
		all = append(all, items...)
		if len(items) == 0 || len(all) >= *page.Total {
			return all, nil
		}
	}
}

// get returns one secret's description.
func (c *client) get(ctx context.Context, id uuid.UUID) (item, error) {
	var j itemJSON
	if err := c.json(ctx, request{method: http.MethodGet, at: c.at(nil, "secrets", id.String())}, &j); err != nil {
		return item{}, err
	}
	return j.item()
}

// payload returns a secret's value.
func (c *client) payload(ctx context.Context, i item) (*secrets.Secret, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, at: c.at(nil, "secrets", i.id.String(), "payload"), accept: i.contentType})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	value, err := secrets.Read(resp.Body)
	switch {
	case errors.Is(err, secrets.ErrTooLong):
		return nil, err
	case err != nil:
		return nil, unreachable(err)
	case value.Len() == 0:
		return nil, fmt.Errorf("%w: its payload is empty", secrets.ErrDamaged)
	}
	return value, nil
}

// create creates a secret without payload on the server.
func (c *client) create(ctx context.Context, name string) (uuid.UUID, error) {
	var made itemJSON
	err := c.sendJSON(ctx, http.MethodPost, c.at(nil, "secrets"), map[string]string{"name": name, "secret_type": "opaque"}, &made)
	if err != nil {
		return uuid.Nil, err
	}
	id, err := secrets.ParseUUID(path.Base(made.Ref))
	if err != nil {
		return uuid.Nil, errNotBarbican
	}
	return id, nil
}

// setPayload sets the payload of a secret that has none.
func (c *client) setPayload(ctx context.Context, id uuid.UUID, value *secrets.Secret) error {
	return c.json(ctx, request{method: http.MethodPut, at: c.at(nil, "secrets", id.String()), kind: "application/octet-stream", body: &body{secret: value}}, nil)
}

// metadata returns the user metadata of a secret.
func (c *client) metadata(ctx context.Context, id uuid.UUID) (map[string]string, error) {
	var answer struct {
		Metadata map[string]string `json:"metadata"`
	}
	err := c.json(ctx, request{method: http.MethodGet, at: c.at(nil, "secrets", id.String(), "metadata")}, &answer)
	return answer.Metadata, err
}

// setMetadata replaces all user metadata of a secret.
func (c *client) setMetadata(ctx context.Context, id uuid.UUID, metadata map[string]string) error {
	return c.sendJSON(ctx, http.MethodPut, c.at(nil, "secrets", id.String(), "metadata"), map[string]any{"metadata": metadata}, nil)
}

func (c *client) remove(ctx context.Context, id uuid.UUID) error {
	return c.json(ctx, request{method: http.MethodDelete, at: c.at(nil, "secrets", id.String())}, nil)
}

// sendJSON sends content as JSON; content must not be secret.
func (c *client) sendJSON(ctx context.Context, method string, at *url.URL, content, into any) error {
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	s := secrets.New(text)
	defer s.Wipe()
	return c.json(ctx, request{method: method, at: at, kind: "application/json", body: &body{secret: s}}, into)
}
