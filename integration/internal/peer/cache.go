package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// CacheDir returns the directory for files that are slow to obtain: the value of LUKSPLUG_CACHE, or luksplug
// in the user's cache directory (XDG_CACHE_HOME or ~/.cache). It may be removed at any time; it is filled
// again on demand.
func CacheDir() (string, error) {
	if dir := os.Getenv("LUKSPLUG_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (set LUKSPLUG_CACHE): %w", err)
	}
	return filepath.Join(base, "luksplug"), nil
}

// cached returns the directory that the cache has under name. If there is none, build fills an empty
// directory, which is then renamed, so that an incomplete entry is never visible. Processes that want the
// same entry at the same time wait for the first.
func cached(name string, build func(dir string) error) (string, error) {
	root, err := CacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(root, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	// The file stays: removing it would let two processes lock two different files of one name.
	lock, err := os.OpenFile(final+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("open the cache lock: %w", err)
	}
	defer func() { _ = lock.Close() }() // closing releases the lock
	if err := fsutil.Lock(context.Background(), lock); err != nil {
		return "", err
	}
	if _, err := os.Stat(final); err == nil {
		return final, nil // another process made it during the wait
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for %s in the cache: %w", name, err)
	}
	temp, err := os.MkdirTemp(root, "."+name+".new-")
	if err != nil {
		return "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }() // after success it has another name
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	if err := build(temp); err != nil {
		return "", fmt.Errorf("fill the cache entry %s: %w", name, err)
	}
	if err := os.Rename(temp, final); err != nil {
		return "", fmt.Errorf("put %s in the cache: %w", name, err)
	}
	return final, nil
}
