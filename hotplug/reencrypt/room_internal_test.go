package reencrypt

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// TestQuotaFree: the kernel's numbers become bytes.
func TestQuotaFree(t *testing.T) {
	t.Parallel()
	const all = validLimits | validSpace
	for _, c := range []struct {
		name    string
		q       quota
		free    int64
		limited bool
	}{
		{"none", quota{space: 5, valid: all}, 0, false},
		{"a soft one only", quota{soft: 10, space: 5, valid: all}, 0, false},
		{"a hard one", quota{hard: 10, soft: 8, space: 4096, valid: all}, 6144, true},
		{"used up", quota{hard: 10, space: 10240, valid: all}, 0, true},
		{"exceeded", quota{hard: 10, space: 20480, valid: all}, 0, true},
		{"the largest", quota{hard: 1<<64 - 1, space: 1 << 20, valid: all}, maxSize - 1<<20, true},
		{"limits that are not valid", quota{hard: 10, valid: validSpace}, 0, false},
	} {
		if free, limited := c.q.free(); free != c.free || limited != c.limited {
			t.Errorf("%s: %d, %v", c.name, free, limited)
		}
	}
}

// TestQueryQuota: the kernel knows the call. Where no quotas are on, it says so.
func TestQueryQuota(t *testing.T) {
	t.Parallel()
	dir := must.Get(os.Open(t.TempDir()))(t)
	defer fsutil.CloseRead(dir)
	q, err := queryQuota(dir, userQuota, os.Geteuid())
	if err == nil {
		if q.valid&validSpace == 0 {
			t.Errorf("an answer without a usage: %+v", q)
		}
		t.Skip("quotas are on here")
	}
	if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOSYS) {
		t.Errorf("%v", err)
	}
	p := Place{}
	p.addQuotas(dir, Writer{UID: os.Geteuid(), GID: os.Getegid()}, false)
	if len(p.Limits) != 0 || len(p.Unknown) != 0 {
		t.Errorf("%+v", p)
	}
	p.addQuotas(dir, Writer{}, true)
	if len(p.Unknown) != 1 {
		t.Errorf("of a server: %+v", p)
	}
}
