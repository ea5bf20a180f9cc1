package volume

// Progress is how far an operation is.
type Progress struct {
	Done, Total int64 // bytes
}

// Report receives the progress of an operation, by one call at a time, and none after the operation has returned. It must
// return quickly. Operations accept nil.
type Report func(Progress)
