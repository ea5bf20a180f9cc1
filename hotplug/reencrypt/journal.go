package reencrypt

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/secrets"
)

// Phase is how far a re-encryption is.
type Phase string

// The phases, in their order. Until PhaseSwitched the source has all data; from then on only the target has. PhaseSwitching
// is written before the switch is requested, so that after a crash in it either may be true: QEMU is queried.
const (
	PhasePreparing  Phase = "preparing"          // the key is stored, the target is made; no byte is copied
	PhaseCopying    Phase = "copying"            // the job runs
	PhaseSwitching  Phase = "switching"          // the switch was requested
	PhaseSwitched   Phase = "switched"           // the guest uses the target; references are being moved
	PhaseSourceKept Phase = "done-with-old-kept" // only the old volume is left to discard
)

var phases = []Phase{PhasePreparing, PhaseCopying, PhaseSwitching, PhaseSwitched, PhaseSourceKept}

// Switched reports whether the target has replaced the source for certain.
func (p Phase) Switched() bool { return p == PhaseSwitched || p == PhaseSourceKept }

// Errors of a [Journal].
var (
	// ErrEntry reports an entry that no re-encryption can have.
	ErrEntry = errors.New("it is no entry of a re-encryption")
	// ErrVersion reports an entry of a later luksplug.
	ErrVersion = errors.New("it was written by a later luksplug: use that one to finish this re-encryption")
	// ErrPhase reports a step back from a target that has replaced its source: the source is out of date.
	ErrPhase = errors.New("the guest has used the new volume already")
)

// DrivenError reports that another process drives a re-encryption.
type DrivenError struct {
	ID string
	// Holder is the id of that process, 0 if it is unknown.
	Holder int
	// Path is the lock file.
	Path string
	// Err is why the wait ended.
	Err error
}

// Error implements error.
func (e *DrivenError) Error() string {
	by := "another process"
	if e.Holder != 0 {
		by = fmt.Sprintf("process %d", e.Holder)
	}
	return fmt.Sprintf("the re-encryption %s is driven by %s, which has locked %s: try again when that has ended", e.ID, by, e.Path)
}

// Unwrap returns why the wait ended.
func (e *DrivenError) Unwrap() error { return e.Err }

// Journal is a directory with a file for each re-encryption that is not finished. It holds no secret. A crash or a loss of
// power leaves each file as it was before a write or after it. The directory must belong to root or to the caller, and no
// other user may write to it; the same is checked for each file before its content counts. Errors of all methods wrap
// [fsutil.ErrUntrusted] otherwise.
type Journal struct {
	Dir string
}

// journalDir is root's default directory.
const journalDir = "/var/lib/luksplug/reencrypt"

// DefaultJournal returns the journal of this process's user: /var/lib/luksplug/reencrypt for root, luksplug/reencrypt in
// XDG_STATE_HOME or in ~/.local/state otherwise. It is on a disk: a re-encryption outlives a reboot of the host.
func DefaultJournal() (Journal, error) {
	dir, err := defaultJournal(os.Geteuid(), os.Getenv)
	return Journal{dir}, err
}

func defaultJournal(uid int, env func(string) string) (string, error) {
	if uid == 0 {
		return journalDir, nil
	}
	if state := env("XDG_STATE_HOME"); filepath.IsAbs(state) { // relative paths are to be ignored
		return filepath.Join(state, "luksplug", "reencrypt"), nil
	}
	if home := env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "luksplug", "reencrypt"), nil
	}
	return "", errors.New("there is no directory for the journal of re-encryptions: set HOME or XDG_STATE_HOME")
}

// Entry is one re-encryption. Its names and paths are those of its begin, and after [PhaseSourceKept] those that the files have
// then.
type Entry struct {
	// ID is the LUKS UUID of the target, a random UUID for one without encryption. Lower case.
	ID    string    `json:"id"`
	Begin time.Time `json:"begin"`
	Phase Phase     `json:"phase"`
	// VM is the zero value for a volume that no VM uses.
	VM VM `json:"vm,omitzero"`
	// Disk is the disk's target, such as vdb; "" without a VM.
	Disk           string `json:"disk,omitempty"`
	Source, Target Volume `json:"-"`
	// InPlace renames the target to the name of the source in the end.
	InPlace bool `json:"in_place,omitempty"`
	// Names are the names that the files get after the switch. They are written before the first file is renamed, and are none
	// before that and when all have their names.
	Names Names `json:"names,omitzero"`
	// Speed limits the copying, in bytes a second; 0 does not.
	Speed int64 `json:"speed,omitempty"`
}

// Names are paths that the files of a re-encryption get, "" for a file that keeps its name.
type Names struct {
	OldPayload string `json:"old_payload,omitempty"`
	OldHeader  string `json:"old_header,omitempty"`
	NewPayload string `json:"new_payload,omitempty"`
	NewHeader  string `json:"new_header,omitempty"`
}

// VM is the VM that uses a volume, as the caller has named it.
type VM struct {
	Name    string `json:"name,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	Connect string `json:"connect,omitempty"` // libvirt's URI
	Monitor string `json:"monitor,omitempty"` // the address of a monitor without libvirt
}

// Volume is the source or the target of a re-encryption.
type Volume struct {
	// Payload and Header are absolute paths. Payload is "" for an image of a server, Header for one without a file of its own.
	Payload string
	Header  string
	Format  blockgraph.Format
	// UUID is that of the LUKS header, "" without encryption.
	UUID string
	// Secret names the passphrase, the zero value without encryption.
	Secret secrets.Reference
	// KeyStore is the URI of the store with the passphrase.
	KeyStore string
	// XML is the <disk> element.
	XML string
}

// Layout returns the volume's layout, "" for a format that no layout has.
func (v Volume) Layout() Layout {
	encrypted := v.UUID != ""
	switch {
	case v.Format == blockgraph.FormatRaw && !encrypted:
		return LayoutRaw
	case v.Format == blockgraph.FormatQcow2 && !encrypted:
		return LayoutQcow2
	case v.Format == blockgraph.FormatRaw && v.Header == "":
		return LayoutLUKS
	case v.Format == blockgraph.FormatQcow2 && v.Header == "":
		return LayoutLUKSInQcow2
	case v.Format == blockgraph.FormatRaw:
		return LayoutDetachedRaw
	case v.Format == blockgraph.FormatQcow2:
		return LayoutDetachedQcow2
	}
	return ""
}

// The form of entries in files.
type (
	entryFile struct {
		Version int `json:"version"`
		entryFields
		Source volumeFile `json:"source"`
		Target volumeFile `json:"target"`
	}
	entryFields Entry
	volumeFile  struct {
		Payload  string            `json:"payload,omitempty"`
		Header   string            `json:"header,omitempty"`
		Format   blockgraph.Format `json:"format"`
		UUID     string            `json:"uuid,omitempty"`
		Secrets  rundir.References `json:"secrets,omitempty"` // one, or none
		KeyStore string            `json:"keystore,omitempty"`
		XML      string            `json:"xml,omitempty"`
	}
)

// entryVersion is the version of the files. One that an older luksplug would misunderstand needs a new one.
const entryVersion = 1

// maxEntry is the size that a file may have, in bytes.
const maxEntry = 4 << 20

func (v Volume) file() volumeFile {
	out := volumeFile{v.Payload, v.Header, v.Format, v.UUID, nil, v.KeyStore, v.XML}
	if v.Secret != (secrets.Reference{}) {
		out.Secrets = rundir.References{v.Secret}
	}
	return out
}

func (f volumeFile) volume() (Volume, error) {
	out := Volume{f.Payload, f.Header, f.Format, f.UUID, secrets.Reference{}, f.KeyStore, f.XML}
	if len(f.Secrets) > 1 {
		return out, fmt.Errorf("%w: a volume with %d secrets", ErrEntry, len(f.Secrets))
	}
	for _, ref := range f.Secrets {
		out.Secret = ref
	}
	return out, nil
}

// encode returns the file of an entry.
func (e Entry) encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(entryFile{entryVersion, entryFields(e), e.Source.file(), e.Target.file()}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if len(text) >= maxEntry {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrEntry, len(text))
	}
	return append(text, '\n'), nil
}

// decodeEntry reads the file of an entry.
func decodeEntry(text []byte) (Entry, error) {
	// Of a later version, nothing but the version has to be as expected.
	var version struct {
		Version int `json:"version"`
	}
	if err := qapi.Unmarshal(text, &version); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if version.Version > entryVersion {
		return Entry{}, ErrVersion
	}
	var file entryFile
	if err := qapi.Unmarshal(text, &file); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if file.Version != entryVersion {
		return Entry{}, fmt.Errorf("%w: version %d", ErrEntry, file.Version)
	}
	e := Entry(file.entryFields)
	var err1, err2 error
	e.Source, err1 = file.Source.volume()
	e.Target, err2 = file.Target.volume()
	return e, errors.Join(err1, err2, e.check())
}

// check refuses an entry that cannot be acted upon. The error wraps [ErrEntry].
func (e Entry) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrEntry, fmt.Sprintf(format, args...))
	}
	switch {
	case !isID(e.ID):
		return refuse("%q is no UUID in lower case", e.ID)
	case e.Begin.IsZero():
		return refuse("it has no time of its begin")
	case !slices.Contains(phases, e.Phase):
		return refuse("the phase %q is not known", e.Phase)
	case e.VM == (VM{}) != (e.Disk == ""):
		return refuse("a disk and a VM belong together")
	case e.Speed < 0:
		return refuse("the speed %d is negative", e.Speed)
	case e.Target.UUID != "" && e.Target.UUID != e.ID:
		return refuse("its name is %s, and the UUID of its target %s", e.ID, e.Target.UUID)
	case !text(e.VM.Name, e.VM.UUID, e.VM.Connect, e.VM.Monitor, e.Disk):
		return refuse("a name is no text in UTF-8")
	}
	for _, v := range []Volume{e.Source, e.Target} {
		if err := v.check(); err != nil {
			return refuse("%v", err)
		}
	}
	if err := checkPaths(e.Names.OldPayload, e.Names.OldHeader, e.Names.NewPayload, e.Names.NewHeader); err != nil {
		return refuse("%v", err)
	}
	return nil
}

// checkPaths refuses a path that is neither "" nor absolute and clean.
func checkPaths(paths ...string) error {
	for _, path := range paths {
		switch {
		case path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path):
			return fmt.Errorf("the path %q is not absolute and without detours", path)
		case !text(path):
			return errors.New("a path or name is no text in UTF-8")
		}
	}
	return nil
}

func (v Volume) check() error {
	if err := checkPaths(v.Payload, v.Header); err != nil {
		return err
	}
	switch {
	case !text(string(v.Format), v.Secret.Usage, v.KeyStore, v.XML):
		return errors.New("a path or name is no text in UTF-8")
	case v.Payload == "" && v.XML == "":
		return errors.New("a volume has neither a path nor a <disk>")
	case v.Format == "":
		return errors.New("a volume has no format")
	case v.UUID != "" && !isID(v.UUID):
		return fmt.Errorf("%q is no UUID in lower case", v.UUID)
	}
	if v.Secret != (secrets.Reference{}) {
		if err := v.Secret.Validate(); err != nil {
			return err
		}
	}
	// No key store has a password in its URI; whatever has one does not belong into a file.
	if u, err := url.Parse(v.KeyStore); err == nil && u.User != nil {
		if _, has := u.User.Password(); has {
			return errors.New("the URI of a key store has a password")
		}
	}
	return nil
}

// text reports whether all are texts that JSON keeps as they are.
func text(all ...string) bool {
	return !slices.ContainsFunc(all, func(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, 0) })
}

func isID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u != uuid.Nil && u.String() == id
}

const (
	entrySuffix = ".json"
	unfinished  = ".new" // what Write names a file until it is complete
)

// Write stores an entry durably, in place of one with its ID. The caller has its lock, see [Journal.Lock]. The error wraps
// [ErrEntry] for an entry that [Journal.Read] would refuse.
func (j Journal) Write(e Entry) error {
	content, err := e.encode()
	if err != nil {
		return fmt.Errorf("write the journal of re-encryptions: %w", err)
	}
	if err := fsutil.MakeDir(j.Dir, 0o700); err != nil {
		return fmt.Errorf("journal of re-encryptions: %w", err)
	}
	dir, err := j.open()
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(dir)
	o := fsutil.Options{Mode: 0o600, Durable: true, Temporary: e.ID + entrySuffix + unfinished}
	if err := fsutil.Replace(dir, e.ID+entrySuffix, content, o); err != nil {
		return fmt.Errorf("write the journal of re-encryptions: %w", err)
	}
	return nil
}

// Update stores another phase of an entry, and returns the entry. The caller has its lock. The error wraps [ErrPhase] for a
// phase that is over.
func (j Journal) Update(id string, p Phase) (Entry, error) {
	e, err := j.Read(id)
	if err != nil {
		return Entry{}, err
	}
	// Before the switch a phase may come again, as when copying is resumed.
	if e.Phase.Switched() && slices.Index(phases, p) < slices.Index(phases, e.Phase) {
		return Entry{}, fmt.Errorf("re-encryption %s: it is %s, and cannot be %s again: %w", id, e.Phase, p, ErrPhase)
	}
	e.Phase = p
	return e, j.Write(e)
}

// Read returns an entry. The error wraps fs.ErrNotExist if there is none, [ErrVersion] for one of a later luksplug, and
// [ErrEntry] for one that is damaged.
func (j Journal) Read(id string) (Entry, error) {
	if !isID(id) {
		return Entry{}, fmt.Errorf("re-encryption %q: %w: this is no UUID in lower case", id, ErrEntry)
	}
	dir, err := j.open()
	if err != nil {
		return Entry{}, err
	}
	defer fsutil.CloseRead(dir)
	return j.read(dir, id)
}

// List returns all entries, the oldest first. The error joins those of entries that cannot be read; the others are returned
// with it. There are none without the directory.
func (j Journal) List() ([]Entry, error) {
	dir, err := j.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(dir)
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the journal of re-encryptions: %w", err)
	}
	slices.Sort(names)
	var out []Entry
	var failed []error
	for _, name := range names {
		id, is := strings.CutSuffix(name, entrySuffix)
		if !is || !isID(id) {
			continue // a lock, or a file that a crash has left
		}
		e, err := j.read(dir, id)
		switch {
		case err == nil:
			out = append(out, e)
		case !errors.Is(err, fs.ErrNotExist): // it was finished meanwhile
			failed = append(failed, err)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return cmp.Or(a.Begin.Compare(b.Begin), strings.Compare(a.ID, b.ID)) })
	return out, errors.Join(failed...)
}

// Remove removes an entry durably. The caller has its lock. An entry that is not there is removed already.
func (j Journal) Remove(id string) error {
	if !isID(id) {
		return fmt.Errorf("re-encryption %q: %w: this is no UUID in lower case", id, ErrEntry)
	}
	dir, err := j.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(dir)
	for _, name := range []string{id + entrySuffix, id + entrySuffix + unfinished} {
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: filepath.Join(j.Dir, name), Err: err}
		}
	}
	return fsutil.SyncDir(dir, ".")
}

func (j Journal) open() (*os.File, error) {
	dir, err := fsutil.OpenDir(j.Dir)
	if err != nil {
		return nil, fmt.Errorf("journal of re-encryptions: %w", err)
	}
	return dir, nil
}

func (j Journal) read(dir *os.File, id string) (Entry, error) {
	name := id + entrySuffix
	e, err := readEntry(dir, name)
	if err == nil && e.ID != id {
		err = fmt.Errorf("%w: it is that of %s", ErrEntry, e.ID)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read the journal of re-encryptions: %s: %w", filepath.Join(j.Dir, name), err)
	}
	return e, nil
}

// readEntry reads a file, after it has checked who could write it.
func readEntry(dir *os.File, name string) (Entry, error) {
	f, err := fsutil.OpenRegular(dir, name)
	if err != nil {
		return Entry{}, err
	}
	defer fsutil.CloseRead(f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Entry{}, err
	}
	path := filepath.Join(dir.Name(), name)
	switch mode := st.Mode & 0o7777; {
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return Entry{}, &fsutil.UntrustedError{Path: path, Reason: fmt.Sprintf("belongs to user %d: check where it comes from, and move it away", st.Uid)}
	case mode&0o022 != 0:
		return Entry{}, &fsutil.UntrustedError{Path: path, Reason: fmt.Sprintf("has mode %04o, so others can write to it: check its content, and run chmod go-w on it", mode)}
	}
	content, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	if err != nil {
		return Entry{}, err
	}
	if len(content) > maxEntry {
		return Entry{}, fmt.Errorf("%w: it has more than %d bytes", ErrEntry, maxEntry)
	}
	return decodeEntry(content)
}

// Lock is held by the process that drives a re-encryption.
type Lock struct{ held *rundir.Lock }

// Release releases the lock.
func (l *Lock) Release() { l.held.Release() }

// Lock makes this process the only one that drives a re-encryption, until the lock is released or the process ends. It waits
// for another process until ctx ends: the error is then a [*DrivenError]. waiting is called once with the id of that process,
// 0 if it is unknown, when the wait begins; it may be nil. The entry need not exist yet.
func (j Journal) Lock(ctx context.Context, id string, waiting func(holder int)) (*Lock, error) {
	if !isID(id) {
		return nil, fmt.Errorf("re-encryption %q: %w: this is no UUID in lower case", id, ErrEntry)
	}
	file, err := rundir.LockFileOf(j.Dir, id)
	if err != nil {
		return nil, fmt.Errorf("journal of re-encryptions: %w", err)
	}
	lock, err := rundir.TryLock(file)
	if err == nil {
		return &Lock{lock}, nil
	}
	if !errors.Is(err, fsutil.ErrLocked) {
		return nil, fmt.Errorf("lock the re-encryption %s: %w", id, err)
	}
	if waiting == nil {
		waiting = func(int) {}
	}
	lock, err = rundir.TakeLock(ctx, file, waiting)
	var locked *outcome.LockedError
	if errors.As(err, &locked) {
		return nil, &DrivenError{id, locked.Holder, locked.Path, locked.Err}
	}
	if err != nil {
		return nil, fmt.Errorf("lock the re-encryption %s: %w", id, err)
	}
	return &Lock{lock}, nil
}
