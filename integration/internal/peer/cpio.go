package peer

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes an archive in the "newc" format that the kernel unpacks as
// its initial file system (Documentation/driver-api/early-userspace/
// buffer-format.rst in the kernel's sources): a header of 13 hexadecimal
// fields, the name, the content, each padded to four bytes.
type cpioWriter struct {
	w     io.Writer
	inode int
	at    int64 // bytes written, for the padding
	err   error // the first error; later calls do nothing
}

// The file type bits of the mode field, as in stat(2).
const (
	cpioDir     = 0o040000
	cpioRegular = 0o100000
	cpioSymlink = 0o120000
	cpioChar    = 0o020000
)

// dir adds a folder.
func (c *cpioWriter) dir(name string) { c.entry(name, cpioDir|0o755, nil, 0, 0) }

// file adds a regular file.
func (c *cpioWriter) file(name string, perm fs.FileMode, content []byte) {
	c.entry(name, cpioRegular|uint32(perm.Perm()), content, 0, 0)
}

// symlink adds a symbolic link.
func (c *cpioWriter) symlink(name, target string) {
	c.entry(name, cpioSymlink|0o777, []byte(target), 0, 0)
}

// char adds a character device.
func (c *cpioWriter) char(name string, major, minor int) {
	c.entry(name, cpioChar|0o600, nil, major, minor)
}

// close ends the archive and returns the first error.
func (c *cpioWriter) close() error {
	c.inode = -1 // the trailer has inode 0
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}

// entry writes one member.
func (c *cpioWriter) entry(name string, mode uint32, content []byte, major, minor int) {
	c.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	c.write([]byte(header))
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(content)
	c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpioWriter) pad() { c.write(make([]byte, (4-c.at%4)%4)) }

// write writes b unless an earlier write failed.
func (c *cpioWriter) write(b []byte) {
	if c.err != nil || len(b) == 0 {
		return
	}
	n, err := c.w.Write(b)
	c.at += int64(n)
	c.err = err
}
