package apply

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// flooder is a monitor that floods its client with an event, which no real QEMU does. It counts the requests to
// release a device. The device is gone once free is closed; deleted is then sent, "" for nothing.
type flooder struct {
	event, deleted string
	free           chan struct{}
	requests       atomic.Int64

	mu   sync.Mutex
	conn net.Conn
}

const flooderGreeting = `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":[]}}`

func (f *flooder) send(line string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := fmt.Fprintln(f.conn, line)
	return err == nil
}

func (f *flooder) serve() {
	in := bufio.NewReader(f.conn)
	for f.send(flooderGreeting); ; {
		line, err := in.ReadBytes('\n')
		var c struct {
			Execute string
			ID      json.RawMessage
		}
		if err != nil || json.Unmarshal(line, &c) != nil {
			return
		}
		answer := `"return":{"status":"running"}`
		if c.Execute == "device_del" {
			f.requests.Add(1)
			select {
			case <-f.free:
				answer = `"error":{"class":"DeviceNotFound","desc":"Device not found"}`
			default:
			}
		}
		if !f.send(fmt.Sprintf(`{%s,"id":%s}`, answer, c.ID)) {
			return
		}
	}
}

func (f *flooder) flood() {
	told := false
	for range time.Tick(time.Millisecond) {
		for range 200 {
			if !f.send(f.event) {
				return
			}
		}
		select {
		case <-f.free:
			if !told && f.deleted != "" && !f.send(f.deleted) {
				return
			}
			told = true
		default:
		}
	}
}

// TestUnplugInAFlood: a flood of events that concern others, or that make a request worth repeating, neither hides the
// end of the device, nor takes memory, nor causes a request for each event.
func TestUnplugInAFlood(t *testing.T) {
	const deleted = `{"event":"DEVICE_DELETED","data":{"device":"luksplug-vdb"},"timestamp":{"seconds":1,"microseconds":1}}`
	for name, f := range map[string]*flooder{
		"RESUME":                {event: `{"event":"RESUME","timestamp":{"seconds":1,"microseconds":1}}`, deleted: deleted},
		"RESET":                 {event: `{"event":"RESET","data":{"guest":true,"reason":"x"},"timestamp":{"seconds":1,"microseconds":1}}`},
		"other devices' events": {event: `{"event":"DEVICE_DELETED","data":{"device":"x"},"timestamp":{"seconds":1,"microseconds":1}}`, deleted: deleted},
	} {
		t.Run(name, func(t *testing.T) {
			f.free = make(chan struct{})
			near, far := net.Pipe()
			f.conn = far
			var wg sync.WaitGroup
			wg.Go(f.serve)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			log := logrus.New()
			c := must.Get(monitor.Dial(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.NewConn(ctx, near) }, log))(t)
			wg.Go(f.flood)
			defer wg.Wait()
			defer func() { _, _ = c.Close(), far.Close() }()
			const busy = 500 * time.Millisecond
			time.AfterFunc(busy, func() { close(f.free) })
			begin := time.Now()
			if err := unplug(ctx, c, "luksplug-vdb"); err != nil {
				t.Fatal(err)
			}
			took := time.Since(begin)
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			if n := f.requests.Load(); n > 3+int64(took/unplugSoon) {
				t.Errorf("%d requests in %s", n, took)
			}
			if took < busy || m.HeapAlloc > 64<<20 {
				t.Errorf("it ended after %s, with %d bytes of heap", took, m.HeapAlloc)
			}
		})
	}
}

// TestUnplugAfterLostEvents: if events came faster than they could be read, QEMU is queried again for the device.
func TestUnplugAfterLostEvents(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	f := &flooder{conn: far, free: make(chan struct{})}
	var wg sync.WaitGroup
	var asked atomic.Int64
	wg.Go(func() {
		in := bufio.NewReader(far)
		for f.send(flooderGreeting); ; {
			line, err := in.ReadBytes('\n')
			var c struct {
				Execute string
				ID      json.RawMessage
			}
			if err != nil || json.Unmarshal(line, &c) != nil {
				return
			}
			answer := `"return":{"status":"running"}`
			if c.Execute == "device_del" && asked.Add(1) > 1 {
				answer = `"error":{"class":"DeviceNotFound","desc":"Device not found"}`
			} else if c.Execute == "device_del" { // the caller waits for the reply, and reads no events
				for range 10_000 {
					f.send(`{"event":"RESET","data":{},"timestamp":{"seconds":1,"microseconds":1}}`)
				}
			}
			f.send(fmt.Sprintf(`{%s,"id":%s}`, answer, c.ID))
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := must.Get(monitor.Dial(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.NewConn(ctx, near) }, logrus.New()))(t)
	defer wg.Wait()
	defer func() { _, _ = c.Close(), far.Close() }()
	if err := unplug(ctx, c, "luksplug-vdb"); err != nil {
		t.Error(err)
	}
	if asked.Load() != 2 {
		t.Errorf("the device was requested %d times", asked.Load())
	}
}
