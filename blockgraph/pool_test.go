package blockgraph_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/secrets"
)

const unitsPool = `<pool type='iscsi'><name>units</name>
  <source><host name='san' port='3261'/><device path='iqn.2026-11.example:store'/>
    <auth type='chap' username='vm'><secret uuid='` + blocktest.AnyUUID + `'/></auth></source>
  <target><path>/dev/disk/by-path</path></target></pool>`

func testPools(t *testing.T) blockgraph.Pools {
	t.Helper()
	pools := blockgraph.Pools{
		"images": {Name: "images", Type: "dir", Dir: "/srv/images", Volumes: map[string]blockgraph.PoolVolume{
			"link":   {Path: "/dev/sdx", Kind: blockgraph.SourceBlock}, // libvirt checks the type of the file
			"linked": {Path: "/srv/other/linked"},
		}},
		"vg":   {Name: "vg", Type: "logical", Dir: "/dev/vg"},
		"ceph": {Name: "ceph", Type: "rbd"},
		"hba":  {Name: "hba", Type: "scsi", Dir: "/dev/disk/by-path", Volumes: map[string]blockgraph.PoolVolume{"unit:0:0:1": {Path: "/dev/disk/by-path/lun1"}}},
	}
	units, err := diskxml.ParsePool([]byte(unitsPool))
	if err != nil {
		t.Fatal(err)
	}
	pools[units.Name] = units
	return pools
}

func volume(attrs string) string {
	return "<disk type='volume'><driver type='qcow2'/><source " + attrs + "/><target dev='vdb'/></disk>"
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	for attrs, want := range map[string]string{
		"pool='images' volume='a.qcow2'":                 "file /srv/images/a.qcow2",
		"pool='images' volume='link'":                    "block /dev/sdx",
		"pool='images' volume='linked'":                  "file /srv/other/linked",
		"pool='vg' volume='a'":                           "block /dev/vg/a",
		"pool='hba' volume='unit:0:0:1'":                 "block /dev/disk/by-path/lun1",
		"pool='units' volume='unit:0:0:9' mode='direct'": "network iscsi://san:3261/iqn.2026-11.example:store/9",
	} {
		before := blocktest.Parse(t, volume(attrs))
		d, err := before.Translate(testPools(t))
		if err != nil {
			t.Errorf("%s: %v", attrs, err)
			continue
		}
		if got := fmt.Sprintf("%s %s", d.Image.Source.Kind, d.Image.Source); got != want || d.Image.Format != blockgraph.FormatQcow2 {
			t.Errorf("%s: %s, want %s", attrs, got, want)
		}
		if before.Image.Source.Kind != blockgraph.SourceVolume {
			t.Error("the disk that was translated has changed")
		}
		if refs := d.Secrets(); strings.Contains(attrs, "direct") && (len(refs) != 1 || refs[0].Type != secrets.ISCSI) {
			t.Errorf("the pool's secret is not the disk's: %v", refs)
		}
	}
	plain := blocktest.Parse(t, blocktest.Detached)
	if same, err := plain.Translate(nil); err != nil || same != plain {
		t.Errorf("a disk without volumes: %v", err)
	}
}

func TestTranslateReachesEveryLayer(t *testing.T) {
	t.Parallel()
	d := blocktest.Parse(t, `<disk type='volume'><driver type='qcow2'/>
  <source pool='images' volume='top'><encryption format='luks'><secret type='passphrase' uuid='`+blocktest.AnyUUID+`'/>
    <header type='volume'><source pool='vg' volume='header'/></header></encryption></source>
  <backingStore type='volume'><format type='qcow2'/><source pool='images' volume='base'/><backingStore/></backingStore>
  <target dev='vdb'/></disk>`)
	if _, err := blockgraph.Build(d, blockgraph.Machine{}, blockgraph.Unlock{}); err == nil || !strings.Contains(err.Error(), "Storage pool not found") {
		t.Errorf("a volume that was not translated: %v", err)
	}
	d, err := d.Translate(testPools(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range d.Images() {
		got = append(got, i.Source.String())
	}
	if text := strings.Join(got, " "); text != "/srv/images/top /dev/vg/header /srv/images/base" {
		t.Error(text)
	}
}

func TestTranslateRefuses(t *testing.T) {
	t.Parallel()
	for attrs, want := range map[string]string{
		"pool='none' volume='a'":                        "no storage pool with matching name 'none'",
		"pool='images' volume='a' mode='host'":          "only valid when storage pool is of iscsi type",
		"pool='images' volume='../etc/shadow'":          "no slash",
		"pool='ceph' volume='a'":                        "'rbd' pools",
		"pool='units' volume='unit:0:0:9'":              "only libvirt knows it",
		"pool='units' volume='unit:0:0:9' mode='host'":  "only libvirt knows it",
		"pool='units' volume='unit:0:9' mode='direct'":  "unexpected iscsi volume name",
		"pool='units' volume='unit:0:0:' mode='direct'": "unexpected iscsi volume name",
	} {
		_, err := blocktest.Parse(t, volume(attrs)).Translate(testPools(t))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", attrs, err, want)
			continue
		}
		blocktest.Typed(t, err)
		if errors.Is(err, blockgraph.ErrUnknownPool) != strings.Contains(attrs, "'none'") {
			t.Errorf("%s: the cause of %v", attrs, err)
		}
	}
}
