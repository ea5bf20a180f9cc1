package access

// DirMode is the mode of a directory through which QEMU's user passes to its own files,
// which only the owner can list.
const DirMode = 0o711
