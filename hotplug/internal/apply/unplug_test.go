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

// serve answers commands; answer returns the member of the reply to a request to release the device.
func (f *flooder) serve(answer func() string) {
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
		member := accepted
		if c.Execute == "device_del" {
			f.requests.Add(1)
			member = answer()
		}
		if !f.send(fmt.Sprintf(`{%s,"id":%s}`, member, c.ID)) {
			return
		}
	}
}

const (
	accepted = `"return":{"status":"running"}`
	notFound = `"error":{"class":"DeviceNotFound","desc":"Device not found"}`
)

// untilFree is the answer of a device that is there until free is closed.
func (f *flooder) untilFree() string {
	select {
	case <-f.free:
		return notFound
	default:
		return accepted
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
			wg.Go(func() { f.serve(f.untilFree) })
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
	f := &flooder{conn: far}
	var wg sync.WaitGroup
	wg.Go(func() {
		f.serve(func() string {
			if f.requests.Load() > 1 {
				return notFound
			}
			for range 10_000 { // the caller waits for the reply, and reads no events
				f.send(`{"event":"RESET","data":{},"timestamp":{"seconds":1,"microseconds":1}}`)
			}
			return accepted
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := must.Get(monitor.Dial(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.NewConn(ctx, near) }, logrus.New()))(t)
	defer wg.Wait()
	defer func() { _, _ = c.Close(), far.Close() }()
	if err := unplug(ctx, c, "luksplug-vdb"); err != nil {
		t.Error(err)
	}
	if n := f.requests.Load(); n != 2 {
		t.Errorf("the device was requested %d times", n)
	}
}
