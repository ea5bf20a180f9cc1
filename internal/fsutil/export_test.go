package fsutil

// LinkNew is what RenameNew does on NFS.
var LinkNew = linkNew
