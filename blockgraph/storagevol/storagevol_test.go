package storagevol_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/internal/must"
)

func parsed(t *testing.T, document string) storagevol.Volume {
	t.Helper()
	return *must.Get(diskxml.ParseVolume([]byte(document)))(t)
}

func TestQemuImg(t *testing.T) {
	t.Parallel()
	qcow2 := parsed(t, `<volume><name>a,b</name><capacity unit='KiB'>3</capacity><allocation>0</allocation><target><path>/v,1</path><format type='qcow2'/>
		<clusterSize unit='KiB'>4</clusterSize><nocow/><features><lazy_refcounts/><extended_l2/></features>
		<encryption format='luks'><secret type='passphrase' usage='x'/></encryption></target></volume>`)
	raw := parsed(t, `<volume><name>r</name><capacity>1025</capacity><target><path>/r</path></target></volume>`)
	luks := parsed(t, `<volume><name>l</name><capacity>1024</capacity><target><path>/l</path><encryption format='luks'><secret type='passphrase' usage='x'/></encryption></target></volume>`)
	for _, c := range []struct {
		volume storagevol.Volume
		making storagevol.Making
		want   []string
	}{
		{qcow2, storagevol.Making{SecretFile: "/k,1", Preallocate: true}, []string{"qemu-img create -f qcow2 --object secret,id=a,,b_encrypt0,file=/k,,1 " +
			"-o encrypt.format=luks,encrypt.key-secret=a,,b_encrypt0,preallocation=metadata,nocow=on,compat=1.1,cluster_size=4096,lazy_refcounts,extended_l2 /v,1 3K"}},
		{raw, storagevol.Making{}, []string{"qemu-img create -f raw /r 2K"}},
		{luks, storagevol.Making{SecretFile: "/k", FromSecretFile: "", From: &raw}, []string{
			"qemu-img create -f luks --object secret,id=l_encrypt0,file=/k -o key-secret=l_encrypt0 /l 1K",
			"qemu-img convert --image-opts -n --target-image-opts --object secret,id=l_encrypt0,file=/k driver=raw,file.filename=/r driver=luks,file.filename=/l,key-secret=l_encrypt0"}},
	} {
		commands := must.Get(storagevol.QemuImg(c.volume, c.making))(t)
		var got []string
		for _, argv := range commands {
			got = append(got, strings.Join(argv, " "))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

func TestQemuImgRefusals(t *testing.T) {
	t.Parallel()
	const head, tail = "<volume><name>v</name><capacity>1</capacity><target><path>/v</path>", "</target></volume>"
	const backed = "<volume><name>v</name><capacity>1</capacity><target><path>/v</path><format type='FORMAT'/></target><backingStore><path>/b</path></backingStore></volume>"
	other := parsed(t, strings.ReplaceAll(strings.ReplaceAll(backed, "FORMAT", "qcow2"), "<path>/b<", "<path>/other<"))
	for document, c := range map[string]struct {
		making storagevol.Making
		want   string
	}{
		"<volume><name>v</name><capacity>1</capacity></volume>":                                                 {want: "<path> in <target>: is missing"},
		"<volume type='dir'>" + head[8:] + tail:                                                                 {want: "libvirt does not make volumes of type 'dir'"},
		"<volume type='block'>" + head[8:] + tail:                                                               {want: "pool's own tools"},
		head + "<format type='bochs'/>" + tail:                                                                  {want: "qemu-img makes no images of the format 'bochs'"},
		head + "<compat>1.1</compat>" + tail:                                                                    {want: "compatibility option only available with qcow2"},
		head + "<features/>" + tail:                                                                             {want: "format features only available with qcow2"},
		head + "<clusterSize>4096</clusterSize>" + tail:                                                         {want: "only qcow2 images have clusters"},
		head + "<format type='raw'/>" + tail:                                                                    {storagevol.Making{Preallocate: true}, "metadata preallocation only available with qcow2"},
		strings.ReplaceAll(backed, "FORMAT", "vdi"):                                                             {want: "cannot set backing store for vdi volume"},
		strings.ReplaceAll(backed, "FORMAT", "raw"):                                                             {want: "cannot set backing store for raw volume"},
		strings.ReplaceAll(backed, "FORMAT", "qcow2"):                                                           {storagevol.Making{Preallocate: true}, "metadata preallocation conflicts with backing store"},
		strings.ReplaceAll(backed, "FORMAT", "qed"):                                                             {storagevol.Making{From: &other}, "a different backing store cannot be specified"},
		head + "<encryption format='luks'/>" + tail:                                                             {want: "no secret provided for luks encryption"},
		head + "<encryption format='default'/>" + tail:                                                          {want: "unsupported volume encryption format 'default'"},
		head + "<format type='vmdk'/><encryption format='luks'/>" + tail:                                        {want: "volume encryption unsupported with format vmdk"},
		head + "<encryption format='luks'><header type='file'><source file='/h'/></header></encryption>" + tail: {want: "libvirt has no detached headers"},
		head + "<format type='iso'/>" + tail:                                                                    {storagevol.Making{From: &storagevol.Volume{}}, "missing input volume target path"},
	} {
		_, err := storagevol.QemuImg(parsed(t, document), c.making)
		var invalid *blockgraph.InvalidError
		var unsupported *blockgraph.UnsupportedError
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &invalid) && !errors.As(err, &unsupported) {
			t.Errorf("%s\n got %v\nwant %s", document, err, c.want)
		}
	}
}

// TestIn: what a volume gets from its pool.
func TestIn(t *testing.T) {
	t.Parallel()
	v := storagevol.Volume{Name: "v", Backing: &storagevol.Backing{Path: "b", Format: "raw"}}
	got := v.In(&blockgraph.Pool{Type: "dir", Dir: "/srv//images/"})
	if got.Path != "/srv/images/v" || got.Backing.Path != "/srv/images/b" || got.Type != "" || v.Backing.Path != "b" {
		t.Errorf("%+v %+v", got, v)
	}
	if got := (storagevol.Volume{Name: "v", Path: "/dev/vg/x"}).In(&blockgraph.Pool{Type: "logical", Dir: "/dev/vg"}); got.Path != "/dev/vg/x" || got.Type != storagevol.TypeBlock {
		t.Errorf("%+v", got)
	}
	if got := v.In(nil); got.Path != "" {
		t.Errorf("%+v", got)
	}
}
