package kmiptest

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipserver"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/luksplug/luksplug/internal/must"
)

// Server is a KMIP server with objects in memory, which any client of its authority
// may use. It enforces the rules of the specification that servers differ in: a Name
// is unique, and an active object cannot be destroyed.
type Server struct {
	Address string
	// Refuse, if not nil, returns an error to refuse an operation on an object.
	Refuse func(operation kmip.Operation, id string) error

	mu      sync.Mutex
	last    int
	objects map[string]*Object
}

// Object is an object of a [Server].
type Object struct {
	Object     kmip.Object
	Attributes []kmip.Attribute
	State      kmip.State
}

// NewServer starts a server, which ends with the test.
func NewServer(t testing.TB, a *Authority) *Server {
	t.Helper()
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{a.Server(t).load(t)}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})
	must.OK(t, err)
	s := &Server{Address: listener.Addr().String(), objects: map[string]*Object{}}
	server := kmipserver.NewServer(listener, s.routes())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve() // until it is shut down
	}()
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
	return s
}

// Silence keeps the library from logging to standard error; for TestMain.
func Silence() { slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil))) }

func (s *Server) routes() *kmipserver.BatchExecutor {
	r := kmipserver.NewBatchExecutor()
	r.Route(kmip.OperationRegister, kmipserver.HandleFunc(s.register))
	r.Route(kmip.OperationLocate, kmipserver.HandleFunc(s.locate))
	r.Route(kmip.OperationGetAttributes, kmipserver.HandleFunc(s.attributes))
	r.Route(kmip.OperationGet, kmipserver.HandleFunc(s.get))
	r.Route(kmip.OperationActivate, kmipserver.HandleFunc(s.activate))
	r.Route(kmip.OperationRevoke, kmipserver.HandleFunc(s.revoke))
	r.Route(kmip.OperationDestroy, kmipserver.HandleFunc(s.destroy))
	return r
}

// Add adds an object, as another client would, and returns its identifier.
func (s *Server) Add(o Object) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(&o)
}

func (s *Server) add(o *Object) string {
	s.last++
	id := fmt.Sprintf("object-%d", s.last)
	s.objects[id] = o
	return id
}

// Each calls f for each object. f may change the object.
func (s *Server) Each(f func(id string, o *Object)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.ids() {
		f(id, s.objects[id])
	}
}

func (s *Server) ids() []string {
	var ids []string
	for id := range s.objects {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return ids
}

// on runs f on the object with that identifier.
func (s *Server) on(operation kmip.Operation, id string, f func(o *Object) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Refuse != nil {
		if err := s.Refuse(operation, id); err != nil {
			return err
		}
	}
	o, found := s.objects[id]
	if !found {
		return kmipserver.ErrItemNotFound
	}
	return f(o)
}

func (s *Server) register(_ context.Context, p *payloads.RegisterRequestPayload) (*payloads.RegisterResponsePayload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &Object{Object: p.Object, Attributes: p.TemplateAttribute.Attribute, State: kmip.StatePreActive}
	if _, opaque := p.Object.(*kmip.OpaqueObject); opaque {
		o.State = 0
	}
	for _, a := range o.Attributes {
		if a.AttributeName != kmip.AttributeNameName {
			continue
		}
		for _, other := range s.objects {
			if other.has(a) {
				return nil, kmipserver.Errorf(kmip.ResultReasonInvalidField, "another object has this name")
			}
		}
	}
	return &payloads.RegisterResponsePayload{UniqueIdentifier: s.add(o)}, nil
}

// has reports whether the object has an attribute with that value.
func (o *Object) has(want kmip.Attribute) bool {
	return slices.ContainsFunc(o.Attributes, func(a kmip.Attribute) bool {
		return a.AttributeName == want.AttributeName && reflect.DeepEqual(plain(a.AttributeValue), plain(want.AttributeValue))
	})
}

// plain returns the value of an attribute, whether it was decoded or set locally.
func plain(value any) any {
	if v, ok := value.(ttlv.Value); ok {
		return v.Value
	}
	return value
}

// answer returns the results of a handler: the library requires a nil payload with an error.
func answer[P any](payload *P, err error) (*P, error) {
	if err != nil {
		return nil, err
	}
	return payload, nil
}

func (s *Server) locate(_ context.Context, p *payloads.LocateRequestPayload) (*payloads.LocateResponsePayload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &payloads.LocateResponsePayload{}
	for _, id := range s.ids() {
		if !slices.ContainsFunc(p.Attribute, func(a kmip.Attribute) bool { return !s.objects[id].has(a) }) {
			out.UniqueIdentifier = append(out.UniqueIdentifier, id)
		}
	}
	return out, nil
}

func (s *Server) attributes(_ context.Context, p *payloads.GetAttributesRequestPayload) (*payloads.GetAttributesResponsePayload, error) {
	out := &payloads.GetAttributesResponsePayload{UniqueIdentifier: p.UniqueIdentifier}
	err := s.on(p.Operation(), p.UniqueIdentifier, func(o *Object) error {
		all := o.Attributes
		if o.State != 0 {
			all = append(slices.Clone(all), kmip.Attribute{AttributeName: kmip.AttributeNameState, AttributeValue: o.State})
		}
		for _, a := range all {
			if slices.Contains(p.AttributeName, a.AttributeName) {
				out.Attribute = append(out.Attribute, a)
			}
		}
		return nil
	})
	return answer(out, err)
}

func (s *Server) get(_ context.Context, p *payloads.GetRequestPayload) (*payloads.GetResponsePayload, error) {
	out := &payloads.GetResponsePayload{UniqueIdentifier: p.UniqueIdentifier}
	err := s.on(p.Operation(), p.UniqueIdentifier, func(o *Object) error {
		out.Object, out.ObjectType = o.Object, o.Object.ObjectType()
		return nil
	})
	return answer(out, err)
}

func (s *Server) activate(_ context.Context, p *payloads.ActivateRequestPayload) (*payloads.ActivateResponsePayload, error) {
	return answer(&payloads.ActivateResponsePayload{UniqueIdentifier: p.UniqueIdentifier}, s.on(p.Operation(), p.UniqueIdentifier, func(o *Object) error {
		if o.State != kmip.StatePreActive {
			return kmipserver.Errorf(kmip.ResultReasonPermissionDenied, "it is not pre-active")
		}
		o.State = kmip.StateActive
		return nil
	}))
}

func (s *Server) revoke(_ context.Context, p *payloads.RevokeRequestPayload) (*payloads.RevokeResponsePayload, error) {
	return answer(&payloads.RevokeResponsePayload{UniqueIdentifier: p.UniqueIdentifier}, s.on(p.Operation(), p.UniqueIdentifier, func(o *Object) error {
		if o.State != kmip.StateActive {
			return kmipserver.Errorf(kmip.ResultReasonPermissionDenied, "it is not active")
		}
		o.State = kmip.StateDeactivated
		return nil
	}))
}

func (s *Server) destroy(_ context.Context, p *payloads.DestroyRequestPayload) (*payloads.DestroyResponsePayload, error) {
	return answer(&payloads.DestroyResponsePayload{UniqueIdentifier: p.UniqueIdentifier}, s.on(p.Operation(), p.UniqueIdentifier, func(o *Object) error {
		if o.State == kmip.StateActive {
			return kmipserver.Errorf(kmip.ResultReasonPermissionDenied, "it is active")
		}
		delete(s.objects, p.UniqueIdentifier)
		return nil
	}))
}
