// The declarations of functions without a body need a file of this kind.
