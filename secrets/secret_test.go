package secrets

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/internal/must"
)

func TestNewTakesTheOnlyCopy(t *testing.T) {
	t.Parallel()
	value := []byte("hunter2\x00\xff\n")
	s := New(value)
	if !bytes.Equal(value, make([]byte, len(value))) {
		t.Errorf("the given slice still holds %q", value)
	}
	if got := string(must.Use(t, s)); got != "hunter2\x00\xff\n" || s.Len() != len(value) {
		t.Errorf("%q, %d", got, s.Len())
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	s := New(nil)
	if got := string(must.Use(t, s)); got != "" || s.Len() != 0 || !s.Equal(New([]byte{})) {
		t.Errorf("%q, %d", got, s.Len())
	}
	s.Wipe()
	if err := s.Use(func([]byte) error { return nil }); !errors.Is(err, ErrWiped) {
		t.Error(err)
	}
}

func TestUseReturnsTheFunctionsError(t *testing.T) {
	t.Parallel()
	if err := New([]byte("x")).Use(func([]byte) error { return io.ErrShortWrite }); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
}

func TestAppendToTheBytesDoesNotReachTheSecret(t *testing.T) {
	t.Parallel()
	s := New([]byte("ab"))
	err := s.Use(func(v []byte) error {
		short := append(v[:2], 'c')
		_ = short
		return nil
	})
	if got := string(must.Use(t, s)); err != nil || got != "ab" {
		t.Errorf("%q %v", got, err)
	}
}

func TestWipe(t *testing.T) {
	t.Parallel()
	s := New([]byte("hunter2"))
	s.Wipe()
	s.Wipe()
	if err := s.Use(func([]byte) error { t.Error("called"); return nil }); !errors.Is(err, ErrWiped) {
		t.Error(err)
	}
	if s.Len() != 0 || s.Equal(s) || s.Equal(New([]byte("hunter2"))) {
		t.Error("a wiped secret has a length or an equal")
	}
	for _, nothing := range []*Secret{nil, {}} {
		nothing.Wipe()
		if err := nothing.Use(func([]byte) error { return nil }); !errors.Is(err, ErrWiped) {
			t.Error(err)
		}
		if nothing.Len() != 0 || nothing.Equal(s) || s.Equal(nothing) {
			t.Error("a nil or zero secret has a length or an equal")
		}
	}
}

func TestWipeWaitsForUsersWithoutBlocking(t *testing.T) {
	t.Parallel()
	s := New([]byte("hunter2"))
	err := s.Use(func(outer []byte) error {
		return s.Use(func([]byte) error {
			s.Wipe()
			if string(outer) != "hunter2" {
				t.Errorf("wiped during Use: %q", outer)
			}
			return s.Use(func([]byte) error { t.Error("Use called f after Wipe"); return nil })
		})
	})
	if !errors.Is(err, ErrWiped) {
		t.Error(err)
	}
}

func TestWipeZeroesTheMemory(t *testing.T) {
	t.Parallel()
	memory := []byte("hunter2")
	b := &buffer{bytes: func() []byte { return memory }, free: func() { clear(memory) }}
	(&Secret{b: b}).Wipe()
	if !bytes.Equal(memory, make([]byte, 7)) {
		t.Errorf("%q", memory)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	a, b := New([]byte("hunter2")), New([]byte("hunter2"))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 100 {
				a.Equal(b)
				b.Equal(a)
				_ = a.Use(func(v []byte) error {
					if string(v) != "hunter2" {
						t.Errorf("%q", v)
					}
					return nil
				})
			}
			a.Wipe()
			b.Wipe()
		})
	}
	wg.Wait()
}

func TestEqual(t *testing.T) {
	t.Parallel()
	a := New([]byte("a"))
	for value, want := range map[string]bool{"a": true, "b": false, "": false, "aa": false} {
		if a.Equal(New([]byte(value))) != want {
			t.Errorf("%q", value)
		}
	}
	if !a.Equal(a) {
		t.Error("not equal to itself")
	}
}

// The memory of a secret that was not wiped is freed when the secret is collected.
func TestForgottenSecretIsFreed(t *testing.T) {
	t.Parallel()
	freed := make(chan struct{})
	func() {
		s := New([]byte("hunter2"))
		runtime.AddCleanup(s.b, func(c chan struct{}) { close(c) }, freed)
	}()
	deadline := time.After(10 * time.Second)
	for {
		runtime.GC()
		select {
		case <-freed:
			return
		case <-deadline:
			t.Fatal("the buffer is still reachable: its own cleanup keeps it alive")
		case <-time.After(time.Millisecond):
		}
	}
}

// Every known way of printing, for every way of holding a secret.
func TestNothingPrintsTheValue(t *testing.T) {
	t.Parallel()
	const value = "hunter2-\u00e4"
	s := New([]byte(value))
	type holder struct {
		Public  *Secret
		private *Secret
		byValue Secret
		any     any
		list    []*Secret
		m       map[string]*Secret
	}
	h := holder{s, s, *s, s, []*Secret{s}, map[string]*Secret{"k": s}}
	var out strings.Builder
	for _, v := range []any{s, *s, h, &h, []any{s, *s}, map[string]any{"a": s}, s.b} {
		for verb := 'A'; verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
	}
	fmt.Fprintln(&out, s, *s, h, fmt.Errorf("with %v and %w", s, ErrDenied))

	for _, v := range []any{s, *s, h.Public, map[string]*Secret{"k": s}, struct{ S *Secret }{s}} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		out.Write(data)
	}
	data, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"x"`
		Attr    *Secret  `xml:"a,attr"`
		Elem    *Secret  `xml:"e"`
		Value   Secret   `xml:"v"`
	}{Attr: s, Elem: s, Value: *s})
	if err != nil {
		t.Error(err)
	}
	if want := `<x a="[redacted]"><e>[redacted]</e><v>[redacted]</v></x>`; string(data) != want {
		t.Errorf("XML: %s", data)
	}
	out.Write(data)

	for _, formatter := range []logrus.Formatter{&logrus.TextFormatter{DisableColors: true}, &logrus.JSONFormatter{}} {
		log := logrus.New()
		log.SetOutput(&out)
		log.SetFormatter(formatter)
		log.WithFields(logrus.Fields{"secret": s, "value": *s, "holder": h}).Error("logged ", s)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Error("logged", "secret", s, "holder", h)
	}

	text := out.String()
	for _, form := range []string{value, "hunter2", "hunter", fmt.Sprintf("%x", value), fmt.Sprintf("%X", value),
		fmt.Sprintf("% x", value), strings.Trim(fmt.Sprintf("%d", []byte(value)), "[]"), "aHVudGVyMi"} {
		if strings.Contains(text, form) {
			t.Errorf("printed as %q", form)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s); got != strings.TrimSpace(strings.Repeat("[redacted] ", 7)) {
		t.Errorf("verbs: %s", got)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		want := strings.Repeat("\x00\xff\n", n)[:n]
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(want), "by bytes": iotest.OneByteReader(strings.NewReader(want)),
			"data with EOF": iotest.DataErrReader(strings.NewReader(want)),
		} {
			s := must.Get(Read(r))(t)
			if got := string(must.Use(t, s)); got != want {
				t.Errorf("%s: %d bytes came back as %d", name, n, len(got))
			}
		}
	}
	if _, err := Read(iotest.ErrReader(os.ErrPermission)); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	if s, err := Read(io.LimitReader(zeros{}, MaxLen)); err != nil || s.Len() != MaxLen {
		t.Error(err)
	}
	if _, err := Read(zeros{}); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

// keeper records the slices that were passed to its Read.
type keeper struct {
	r    io.Reader
	seen [][]byte
}

func (k *keeper) Read(p []byte) (int, error) {
	k.seen = append(k.seen, p)
	return k.r.Read(p)
}

func TestReadLeavesNoCopies(t *testing.T) {
	t.Parallel()
	k := &keeper{r: strings.NewReader(strings.Repeat("x", 20_000))}
	if _, err := Read(k); err != nil {
		t.Fatal(err)
	}
	k2 := &keeper{r: io.MultiReader(strings.NewReader("xxx"), iotest.ErrReader(io.ErrNoProgress))}
	if _, err := Read(k2); !errors.Is(err, io.ErrNoProgress) {
		t.Fatal(err)
	}
	for _, p := range append(k.seen, k2.seen...) {
		if bytes.ContainsRune(p, 'x') {
			t.Error("a buffer was left unwiped")
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
