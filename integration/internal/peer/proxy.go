package peer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// Command is one QMP command from the client to QEMU.
type Command struct {
	Name  string // of the command
	Step  int    // counts, from 1, the commands that change something; 0 for the others
	Bytes []byte // as the client wrote it
	FDs   int    // how many descriptors came with it
}

// Cut selects whether and when the proxy cuts the connection because of a command.
type Cut int

// The points at which the proxy cuts.
const (
	CutNever         Cut = iota
	CutBeforeForward     // QEMU never sees the command
	CutBeforeReply       // QEMU has run the command, the client gets no reply
	CutAfterReply        // the client has the reply
)

// Verdict says how the proxy treats a command. The zero value forwards it.
type Verdict struct {
	Replace []byte        // if not nil, is sent to QEMU instead
	Cut     Cut           // cuts the connection, on both sides
	Delay   time.Duration // delays the reply, and everything after it
}

// ProxyHooks control a Proxy. The hooks of a connection are called one at a time. A nil hook forwards everything.
type ProxyHooks struct {
	// Command sees every command but qmp_capabilities.
	Command func(Command) Verdict
	// Event reports whether the client gets an event.
	Event func(Event) bool
	// Reply returns what the client gets in place of the reply to a command, nil for the reply itself.
	Reply func(command string, reply []byte) []byte
	// Connect reports whether the n-th connection, from 1, is served; otherwise it is closed at once.
	Connect func(n int) bool
}

// InjectedFault is the unknown argument with which FailStep makes QEMU refuse a command.
const InjectedFault = "luksplug-injected-fault"

// FailStep makes the real QEMU fail the n-th command that changes something, by an unknown argument. QEMU
// checks arguments before it acts, so the command has no effect.
func FailStep(n int) ProxyHooks {
	return fail(func(c Command) bool { return c.Step == n })
}

// FailCommand is FailStep for every command of a name.
func FailCommand(name string) ProxyHooks {
	return fail(func(c Command) bool { return c.Name == name })
}

func fail(which func(Command) bool) ProxyHooks {
	return ProxyHooks{Command: func(c Command) (v Verdict) {
		if which(c) {
			v.Replace = withFault(c.Bytes)
		}
		return v
	}}
}

// CutAtStep cuts the connection at the n-th command that changes something. Later connections are served.
func CutAtStep(n int, cut Cut) ProxyHooks {
	return ProxyHooks{Command: func(c Command) (v Verdict) {
		if c.Step == n {
			v.Cut = cut
		}
		return v
	}}
}

// withFault adds InjectedFault to a command's arguments.
func withFault(command []byte) []byte {
	var object map[string]json.RawMessage
	if json.Unmarshal(command, &object) != nil {
		return command
	}
	var arguments map[string]json.RawMessage
	if raw, ok := object["arguments"]; ok && json.Unmarshal(raw, &arguments) != nil {
		return command
	}
	if arguments == nil {
		arguments = map[string]json.RawMessage{}
	}
	arguments[InjectedFault] = json.RawMessage("true")
	object["arguments"], _ = json.Marshal(arguments) // raw JSON always encodes
	out, _ := json.Marshal(object)
	return append(out, '\n')
}

// changes reports whether a command may change something in QEMU.
func changes(name string) bool {
	for _, prefix := range []string{"query-", "x-debug-query-", "qom-list", "qom-get", "device-list-properties", "qmp_capabilities"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// Record is one JSON value that passed through a Proxy.
type Record struct {
	FromQEMU bool
	Bytes    []byte // as it was forwarded
	FDs      int
}

// Proxy is a server in front of a real QMP monitor, on a unix socket or on TCP. It passes commands with their
// descriptors to the monitor and replies back, records both, and injects the faults of its hooks.
type Proxy struct {
	Address string // for the tool: unix socket, or host:port

	upstream string
	hooks    ProxyHooks
	listener net.Listener
	wg       sync.WaitGroup

	mu       sync.Mutex
	links    map[*proxyLink]struct{}
	records  []Record
	names    []string // of the steps
	connects int
	closed   bool
}

// monitors and proxies have the process ids of the QEMUs that answer, by the addresses of monitors and of proxies.
var monitors, proxies sync.Map

// Behind returns the process id of the QEMU behind a proxy, by the proxy's address; 0 if it is unknown, or no proxy's.
// The kernel names the process of the test for a proxy.
func Behind(address string) int {
	pid, _ := proxies.Load(address)
	n, _ := pid.(int)
	return n
}

// AlsoAt says that a second monitor of the QEMU is at socket, for proxies in front of it.
func (q *QEMU) AlsoAt(socket string) { monitors.Store(socket, q.PID) }

// NewProxy starts a proxy in front of the monitor on the unix socket upstream. It ends with the test.
func NewProxy(t testing.TB, upstream string, hooks ProxyHooks) *Proxy {
	t.Helper()
	return startProxy(t, "unix", filepath.Join(shortDir(t, "proxy"), "qmp.sock"), upstream, hooks)
}

// NewTCPProxy is NewProxy on a port of the loopback interface, over which no descriptor can be passed.
func NewTCPProxy(t testing.TB, upstream string, hooks ProxyHooks) *Proxy {
	t.Helper()
	return startProxy(t, "tcp", "127.0.0.1:0", upstream, hooks)
}

func startProxy(t testing.TB, network, address, upstream string, hooks ProxyHooks) *Proxy {
	t.Helper()
	listener, err := net.Listen(network, address)
	must.OK(t, err)
	p := &Proxy{Address: listener.Addr().String(), upstream: upstream, hooks: hooks, listener: listener, links: map[*proxyLink]struct{}{}}
	if pid, known := monitors.Load(upstream); known {
		proxies.Store(p.Address, pid)
	}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// Records returns the traffic so far.
func (p *Proxy) Records() []Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.records)
}

// Steps returns the names of the commands that change something: the n-th is the step n of the hooks.
func (p *Proxy) Steps() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.names)
}

// Connections returns how often the tool connected.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connects
}

// close stops the proxy and waits for its goroutines.
func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		l.cut()
	}
	p.mu.Unlock()
	_ = p.listener.Close() // ends accept
	p.wg.Wait()
}

// accept serves connections until the proxy is closed.
func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		p.connects++
		n := p.connects
		p.mu.Unlock()
		if p.hooks.Connect != nil && !p.hooks.Connect(n) {
			_ = client.Close() // refused
			continue
		}
		p.wg.Add(1)
		go p.serve(client)
	}
}

// serve connects one client to the monitor, by a new connection.
func (p *Proxy) serve(client net.Conn) {
	defer p.wg.Done()
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "unix", p.upstream)
	if err != nil {
		_ = client.Close() // like a monitor that has ended
		return
	}
	l := &proxyLink{proxy: p, client: client, qemu: conn.(*net.UnixConn)}
	l.ended, l.end = context.WithCancel(context.Background())
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.closed {
		l.cut()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(l.toQEMU)
	wg.Go(l.toClient)
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// record adds one value to the records.
func (p *Proxy) record(r Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = append(p.records, r)
}

// judge counts a command and calls the hook for it.
func (p *Proxy) judge(c *Command) Verdict {
	if c.Name == "qmp_capabilities" {
		return Verdict{}
	}
	if changes(c.Name) {
		p.mu.Lock()
		p.names = append(p.names, c.Name)
		c.Step = len(p.names)
		p.mu.Unlock()
	}
	if p.hooks.Command == nil {
		return Verdict{}
	}
	return p.hooks.Command(*c)
}

// waiting is a command without its reply.
type waiting struct {
	name    string
	verdict Verdict
}

// proxyLink joins a client to a connection to the monitor.
type proxyLink struct {
	proxy  *Proxy
	client net.Conn
	qemu   *net.UnixConn
	ended  context.Context // done after cut
	end    context.CancelFunc

	mu      sync.Mutex
	waiting []waiting // the commands whose replies are to come, in order
}

// cut ends both connections.
func (l *proxyLink) cut() {
	l.end()
	_ = l.client.Close() // closing twice is harmless
	_ = l.qemu.Close()
}

// toQEMU passes commands until either side ends.
func (l *proxyLink) toQEMU() {
	defer l.cut()
	r := &commandReader{conn: l.client}
	defer func() { closeFDs(r.fds) }()
	for {
		value, fds, err := r.next()
		if err != nil || !l.forward(value, fds) {
			return
		}
	}
}

// forward passes one command, and reports whether the connection continues.
func (l *proxyLink) forward(value []byte, fds []int) bool {
	defer closeFDs(fds) // QEMU has its own copies
	var head struct {
		Execute string `json:"execute"`
		OOB     string `json:"exec-oob"`
	}
	_ = json.Unmarshal(value, &head) // QEMU refuses an invalid command
	c := Command{Name: head.Execute + head.OOB, Bytes: value, FDs: len(fds)}
	v := l.proxy.judge(&c)
	if v.Cut == CutBeforeForward {
		return false
	}
	out := value
	if v.Replace != nil {
		out = v.Replace
	}
	l.mu.Lock()
	l.waiting = append(l.waiting, waiting{c.Name, v})
	l.mu.Unlock()
	l.proxy.record(Record{Bytes: bytes.TrimSpace(out), FDs: len(fds)})
	return sendWithFDs(l.qemu, append(bytes.TrimSpace(out), '\n'), fds) == nil
}

// toClient passes replies and events until either side ends.
func (l *proxyLink) toClient() {
	defer l.cut()
	r := bufio.NewReader(l.qemu)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil || !l.back(line) {
			return
		}
	}
}

// back passes one line from QEMU, and reports whether the connection continues.
func (l *proxyLink) back(line []byte) bool {
	l.proxy.record(Record{FromQEMU: true, Bytes: bytes.TrimSpace(line)})
	var head struct {
		Event
		Greeting json.RawMessage `json:"QMP"`
	}
	if json.Unmarshal(line, &head) != nil {
		return false // QEMU writes one JSON value a line; anything else ends the connection
	}
	var v Verdict
	switch {
	case head.Name != "":
		if hook := l.proxy.hooks.Event; hook != nil && !hook(head.Event) {
			return true
		}
	case head.Greeting == nil:
		w := l.nextWaiting()
		v = w.verdict
		if hook := l.proxy.hooks.Reply; hook != nil {
			if other := hook(w.name, line); other != nil {
				line = other
			}
		}
	}
	if v.Cut == CutBeforeReply {
		return false
	}
	if v.Delay > 0 {
		select {
		case <-time.After(v.Delay):
		case <-l.ended.Done():
			return false
		}
	}
	if _, err := l.client.Write(line); err != nil {
		return false
	}
	return v.Cut != CutAfterReply
}

// nextWaiting returns the command of the current reply: without "oob", QEMU answers in order.
func (l *proxyLink) nextWaiting() waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return waiting{}
	}
	w := l.waiting[0]
	l.waiting = l.waiting[1:]
	return w
}

// errNoValue is the error of firstValue for incomplete JSON.
var errNoValue = errors.New("no complete JSON value")

// firstValue returns the length of the first JSON value in text, including the space before it.
func firstValue(text []byte) (int, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	var v json.RawMessage
	err := d.Decode(&v)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, errNoValue
	}
	return int(d.InputOffset()), err
}
