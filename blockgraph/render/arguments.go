package render

import (
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
)

// Arguments returns the plan's graph as arguments for a QEMU that is about to start: -object,
// -blockdev, -chardev and -device, then -global, not quoted. They contain no secret: each
// secret object reads the file that secretFile returns, whose bytes are exactly the passphrase.
//
// The error is that of secretFile, or an [*blockgraph.UnsupportedError] for what
// cannot be given as arguments: an ephemeral header that is passed as a descriptor
// (one in a file can, and must be there when QEMU starts), a disk that a storage
// daemon unlocks, the overlay of a transient disk, and limits, unless the caller
// sets them later and clears Graph.Throttling.
func Arguments(p *blockgraph.Plan, secretFile func(blockgraph.GraphObject) (string, error)) ([]string, error) {
	return arguments(p, func(o blockgraph.GraphObject) (blockgraph.Object, error) {
		path, err := secretFile(o)
		return o.Options.Without("data").Without("format").With("file", path), err
	})
}

// SealedSecret is a secret that is encrypted for QEMU with the value of another secret
// object, the VM's master key: AES-256-CBC with the padding of PKCS #7.
type SealedSecret struct {
	KeyID string // the id of the object that has the key
	Data  string // the ciphertext, in base64
	IV    string // the initialisation vector, in base64
}

// SealedArguments is [Arguments] with the secrets in the arguments: each secret
// object has the ciphertext that seal returns for it. QEMU also needs the object
// with the key, before these.
func SealedArguments(p *blockgraph.Plan, seal func(blockgraph.GraphObject) (SealedSecret, error)) ([]string, error) {
	return arguments(p, func(o blockgraph.GraphObject) (blockgraph.Object, error) {
		s, err := seal(o)
		return o.Options.With("data", s.Data).With("keyid", s.KeyID).With("iv", s.IV), err
	})
}

// arguments returns the arguments; secret returns the options of a secret object.
func arguments(p *blockgraph.Plan, secret func(blockgraph.GraphObject) (blockgraph.Object, error)) ([]string, error) {
	if p.Graph.Overlay != nil {
		return nil, &blockgraph.UnsupportedError{Element: "disk/transient", Reason: "the overlay of a transient disk is made as the disk is attached, and cannot be given as an argument: attach the disk to the running VM"}
	}
	passed := slices.ContainsFunc(p.Graph.Headers, func(h blockgraph.EphemeralHeader) bool { return h.File == "" })
	if p.Graph.Daemon != nil || passed {
		return nil, &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: "a disk that is unlocked outside of QEMU cannot be given as arguments"}
	}
	if p.Graph.Throttling != nil {
		return nil, &blockgraph.UnsupportedError{Element: "disk/iotune", Reason: "limits are set in a running QEMU only (block_set_io_throttle), and these would be lost: use <throttlefilters>"}
	}
	var out []string
	add := func(option string, o blockgraph.Object) error {
		text, err := o.MarshalJSON()
		out = append(out, option, string(text))
		return err
	}
	for _, o := range p.Graph.Objects {
		options := o.Options
		if _, ok := o.Secret(); ok {
			var err error
			if options, err = secret(o); err != nil {
				return nil, err
			}
		}
		if err := add("-object", options); err != nil {
			return nil, err
		}
	}
	for _, n := range p.Graph.Nodes {
		options := n.Options
		if f := p.Graph.FileOf(n.Name); f != nil {
			options = options.With("path", f.Path) // a starting QEMU cannot receive a descriptor
		}
		if err := add("-blockdev", options); err != nil {
			return nil, err
		}
	}
	for _, c := range p.Graph.Chardevs {
		out = append(out, "-chardev", chardevText(c))
	}
	for _, d := range p.Graph.Devices {
		if err := add("-device", d.Options); err != nil {
			return nil, err
		}
	}
	for _, g := range p.Graph.Globals {
		out = append(out, "-global", g)
	}
	return out, nil
}
