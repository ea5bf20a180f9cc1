package kmiptest

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// Proxy forwards connections of a client to a server.
type Proxy struct {
	Address string

	server   string
	listener net.Listener
	mu       sync.Mutex
	hanging  bool
	conns    []net.Conn
}

// NewProxy starts a proxy in front of the server at that address.
func NewProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	listener := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := &Proxy{Address: listener.Addr().String(), server: server, listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		p.Break()
		wg.Wait()
	})
	return p
}

// Break closes the proxy and all connections through it.
func (p *Proxy) Break() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// Hang makes the proxy accept connections without forwarding them.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hanging = true
}

// keep records a connection for Break. It returns false if the connection is to hang.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return !p.hanging
}

func (p *Proxy) serve(client net.Conn) {
	if !p.keep(client) {
		_, _ = io.Copy(io.Discard, client)
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.keep(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, server)
	_ = client.Close()
	_ = server.Close()
	<-done
}
