package reencrypt

// For tests of the form of files, and of directories of other users.
var (
	DecodeEntry    = decodeEntry
	EncodeEntry    = Entry.encode
	DefaultDirOf   = defaultJournal
	EntrySuffixNew = entrySuffix + unfinished
)
