package luks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/luksplug/luksplug/secrets"
)

// DefaultMaxMemory is the default limit on the memory of one Argon2 derivation, in
// bytes: the largest memory that cryptsetup chooses by default.
const DefaultMaxMemory = 1 << 30

// maxArgon2Work is the largest product of Argon2's passes and KiB: 256 passes over
// 1 GiB, some minutes.
const maxArgon2Work = 256 << 20

// Unlocker unlocks headers. The zero value is ready to use; [Header.Unlock] uses
// it.
type Unlocker struct {
	// Slots are the key slots to try; nil means all except those with priority
	// [PriorityIgnore].
	Slots []int
	// MaxMemory is the limit on the memory of one Argon2 derivation, in bytes; 0
	// means [DefaultMaxMemory]. Key slots that need more are not tried.
	MaxMemory int64
	// Progress, if not nil, is called repeatedly, by one goroutine at a time, and
	// never after Unlock has returned. It must return quickly.
	Progress func(Progress)
}

// Progress is the progress of trying key slots. Unlock ends before Done reaches Total if a key slot opens.
type Progress struct {
	Done, Total int64 // in units of about equal duration
}

// Unlock derives the volume key from the passphrase: it tries the key slots,
// preferred ones first, until the key of one matches the header's digest. The caller
// wipes the key. The passphrase is copied, and not kept after Unlock returns.
//
// Errors wrap [ErrWrongPassphrase]; [ErrNoKeySlot]; [ErrUnsupported] or [ErrDamaged]
// as for [Header.Usable]; the context's error; or the reader's error.
//
// Key slots and the blocks of PBKDF2's output are derived in parallel, on GOMAXPROCS
// cores. Argon2 runs for one key slot at a time, because of its memory. When ctx
// ends, Unlock stops and returns within milliseconds: nothing continues to run.
//
// Unlock reads key material from the reader that was given to [ReadHeader], which
// must still be open. It is safe for concurrent use if the reader is.
func (h *Header) Unlock(ctx context.Context, passphrase []byte) (*VolumeKey, error) {
	return Unlocker{}.Unlock(ctx, h, passphrase)
}

// Unlock is like [Header.Unlock], with the options in u.
func (u Unlocker) Unlock(ctx context.Context, h *Header, passphrase []byte) (*VolumeKey, error) {
	key, err := u.unlock(ctx, h, passphrase)
	if err != nil {
		return nil, fmt.Errorf("unlock the LUKS header: %w", err)
	}
	return key, nil
}

func (u Unlocker) unlock(ctx context.Context, h *Header, passphrase []byte) (*VolumeKey, error) {
	v, err := h.volume()
	if err != nil {
		return nil, err
	}
	u.choose(v)
	if len(v.slots) == 0 {
		return nil, v.noSlots()
	}
	secret := secrets.New(bytes.Clone(passphrase))
	defer secret.Wipe()

	// Cancelling this context stops the other derivations once a key slot has opened.
	working, stop := context.WithCancel(ctx)
	defer stop()
	t := &trial{
		volume: v, reader: h.r, passphrase: secret,
		argon2: make(chan struct{}, 1), opened: stop,
		progress: u.Progress,
	}
	t.run(working)
	return t.result(ctx)
}

// choose removes the key slots that are not selected, and moves those that cannot be
// tried to v.refused.
func (u Unlocker) choose(v *volume) {
	unwanted := func(number int) bool { return u.Slots != nil && !slices.Contains(u.Slots, number) }
	v.refused = slices.DeleteFunc(v.refused, func(e slotError) bool { return unwanted(e.slot) })
	v.slots = slices.DeleteFunc(v.slots, func(s slot) bool {
		if unwanted(s.number) || u.Slots == nil && s.priority == PriorityIgnore {
			return true
		}
		err := u.affordable(s)
		if err != nil {
			v.refused = append(v.refused, slotError{s.number, err})
		}
		return err != nil
	})
}

// affordable returns an error if Argon2 would need too much memory or time.
func (u Unlocker) affordable(s slot) error {
	if s.kdf.kind == typePBKDF2 {
		return nil
	}
	memory, limit := max(int64(s.kdf.memory), s.kdf.argon2Blocks())<<10, cmp.Or(u.MaxMemory, DefaultMaxMemory)
	if memory > limit {
		return fmt.Errorf("%w: %s with %d MiB of memory: the limit is %d", ErrUnsupported, s.kdf.kind, memory>>20, limit>>20)
	}
	if s.kdf.work(s.areaKeyBytes) > maxArgon2Work {
		return fmt.Errorf("%w: %s with %d passes over %d MiB would take very long", ErrUnsupported, s.kdf.kind, s.kdf.time, memory>>20)
	}
	return nil
}

// work returns the cost of deriving n bytes, in iterations of PBKDF2 or in KiB that
// Argon2 processes, which take about equally long.
func (k kdf) work(n int) int64 {
	if k.kind == typePBKDF2 {
		return int64(k.iterations) * int64(k.hash.blocks(n))
	}
	return int64(k.time) * k.argon2Blocks()
}

// trial is an attempt to open the key slots of a volume with a passphrase.
type trial struct {
	volume     *volume
	reader     io.ReaderAt
	passphrase *secrets.Secret
	argon2     chan struct{} // holds a value while Argon2 runs
	opened     func()        // cancels the remaining work
	progress   func(Progress)

	mu   sync.Mutex
	done Progress
	key  *VolumeKey
	errs []slotError // of key slots whose trial failed
}

// attempt is a key slot that is being tried.
type attempt struct {
	slot
	derived []byte       // whole blocks of PBKDF2's output
	missing atomic.Int32 // blocks not yet derived
}

// task is a unit of work for one core: one block of PBKDF2, or a whole Argon2
// derivation.
type task struct {
	attempt *attempt
	block   int
}

// run tries all key slots, and returns when all workers have ended.
func (t *trial) run(ctx context.Context) {
	var tasks []task
	for _, s := range t.volume.slots {
		a := &attempt{slot: s}
		n := 1
		if s.kdf.kind == typePBKDF2 {
			n = s.kdf.hash.blocks(s.areaKeyBytes)
			a.derived = make([]byte, n*s.kdf.hash.make().Size())
			defer clear(a.derived)
		}
		a.missing.Store(int32(n))
		for i := range n {
			tasks = append(tasks, task{attempt: a, block: i})
		}
		t.done.Total += s.kdf.work(s.areaKeyBytes)
	}
	// In order: with the right passphrase in the first key slot, all cores
	// work on that one first.
	queue := make(chan task, len(tasks))
	for _, task := range tasks {
		queue <- task
	}
	close(queue)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(tasks)) {
		workers.Go(func() {
			for task := range queue {
				if err := t.do(ctx, task); err != nil {
					t.fail(ctx, task.attempt.number, err)
				}
			}
		})
	}
	workers.Wait()
}

// do derives the block of the task. The task that derives the last block of a key slot
// then tries to open it.
func (t *trial) do(ctx context.Context, task task) error {
	a := task.attempt
	if a.kdf.kind != typePBKDF2 {
		return t.doArgon2(ctx, a)
	}
	if err := t.passphrase.Use(func(value []byte) error {
		p := a.kdf.hash.newPRF(value)
		defer p.wipe()
		size := p.hash.Size()
		return p.block(ctx, a.kdf, task.block, a.derived[task.block*size:][:size], t.tick)
	}); err != nil {
		return err
	}
	if a.missing.Add(-1) > 0 {
		return nil
	}
	return t.open(ctx, a, a.derived[:a.areaKeyBytes])
}

func (t *trial) doArgon2(ctx context.Context, a *attempt) error {
	select {
	case t.argon2 <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	derived, err := argon2Key(ctx, a.kdf, t.passphrase, a.areaKeyBytes)
	<-t.argon2
	if err != nil {
		return err
	}
	defer clear(derived)
	t.tick(a.kdf.work(a.areaKeyBytes))
	return t.open(ctx, a, derived)
}

// open decrypts and merges the key material with the derived key, and stores the
// result if it is the volume key. A wrong passphrase for this key slot is not an
// error.
func (t *trial) open(ctx context.Context, a *attempt, derived []byte) error {
	material := make([]byte, sectors(t.volume.keyBytes*Stripes)*SectorSize)
	defer clear(material)
	if n, err := t.reader.ReadAt(material, a.offset); n < len(material) {
		if err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it is cut off at byte %d", ErrDamaged, a.offset+int64(n))
		}
		return fmt.Errorf("read the key material at offset %d: %w", a.offset, err)
	}
	c, err := a.encryption.newSectorCipher(derived)
	if err != nil {
		return err
	}
	defer c.wipe()
	c.decrypt(material)
	key := a.af.merge(material, t.volume.keyBytes)
	defer clear(key)

	sum, err := pbkdf2(ctx, t.volume.digest, key, len(t.volume.want))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(sum, t.volume.want) != 1 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.key == nil {
		t.key = &VolumeKey{key: secrets.New(key), slot: a.number, volume: t.volume}
		t.opened()
	}
	return nil
}

// tick adds n to the progress and reports it.
func (t *trial) tick(n int64) {
	if t.progress == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done.Done += n
	t.progress(t.done)
}

// fail records the error of a key slot for result: another key slot may still open.
func (t *trial) fail(ctx context.Context, number int, err error) {
	if ctx.Err() != nil {
		return // cancelled: not a failure of the key slot
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errs = append(t.errs, slotError{number, err})
}

// result returns the key or the error. It is called after run.
func (t *trial) result(ctx context.Context) (*VolumeKey, error) {
	switch {
	case t.key != nil:
		return t.key, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(t.errs) > 0:
		return nil, joined(t.errs)
	}
	tried := make([]int, 0, len(t.volume.slots))
	for _, s := range t.volume.slots {
		tried = append(tried, s.number)
	}
	slices.Sort(tried)
	err := fmt.Errorf("%w: it opens none of the key slots that were tried: %d", ErrWrongPassphrase, tried)
	if len(t.volume.refused) > 0 {
		// Not wrapped: the relevant cause is that the passphrase is wrong for
		// the others.
		err = fmt.Errorf("%w (not tried: %s)", err, joined(t.volume.refused).Error())
	}
	return nil, err
}
