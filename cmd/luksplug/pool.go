package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
)

// readPools reads pool documents. A pool has the name in its document and, for
// one that was saved under another name, that of its file: NAME.xml or
// pool-NAME.xml.
func (a *app) readPools(paths []string) (blockgraph.Pools, error) {
	pools, byFile := blockgraph.Pools{}, blockgraph.Pools{}
	for _, path := range paths {
		data, err := a.readInput(path)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the pool XML: %w", err)}
		}
		pool, err := diskxml.ParsePool(data)
		if err != nil {
			return nil, &usageError{fmt.Errorf("%s: %w", path, err)}
		}
		if pools[pool.Name] != nil {
			return nil, &usageError{fmt.Errorf("%s: the pool %s is given twice", path, pool.Name)}
		}
		pools[pool.Name] = pool
		file := strings.TrimSuffix(filepath.Base(path), ".xml")
		byFile[file], byFile[strings.TrimPrefix(file, "pool-")] = pool, pool
	}
	for name, pool := range byFile {
		if pools[name] == nil {
			pools[name] = pool
		}
	}
	return pools, nil
}
