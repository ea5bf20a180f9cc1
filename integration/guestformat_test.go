package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestGuestFormatted: a guest encrypts a plain disk with its own cryptsetup, in LUKS2 with Argon2id, which
// QEMU cannot open. Attached by luksplug with the passphrase, the disk shows the guest its file system.
func TestGuestFormatted(t *testing.T) {
	peer.Long(t, "a guest formats a volume; TestBitByBit opens cryptsetup's in every run")
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2, Kernel: peer.CryptGuest})
	before := stateOf(ctx, t, q)
	image := sized(t, "guest.img", 64*peer.MiB)
	passphrase := "of the guest's own"
	encryption := fmt.Sprintf("<encryption format='luks'><secret type='passphrase' uuid='%s'/></encryption>", uuid.NewString())
	disk := func(encryption, serial string) string {
		return writeFile(t, "disk.xml", fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='%s'>%s</source><target dev='vdb' bus='virtio'/><serial>%s</serial></disk>`, image, encryption, serial))
	}
	inGuest := func(script string) string {
		t.Helper()
		// The guest has no udev to make devices.
		return must.Get(q.Guest().Run(ctx, "set -e; export DM_DISABLE_UDEV=1\n"+script))(t)
	}

	tool(ctx, t, q.Socket, "attach", disk("", "plain")).want(t, 0)
	dev := guestDisk(ctx, t, q, "plain")
	const line = "a file that the guest had before anybody else saw the disk"
	content := strings.Repeat(line+"\n", 1000)
	inGuest(`disk=` + dev + `
printf %s "` + passphrase + `" > /tmp/key
cryptsetup luksFormat --batch-mode --type luks2 --sector-size 512 --pbkdf argon2id --pbkdf-memory 1024 --pbkdf-force-iterations 4 --pbkdf-parallel 2 --key-file /tmp/key $disk
cryptsetup open --key-file /tmp/key $disk data
mke2fs /dev/mapper/data > /tmp/mke2fs 2>&1 || { cat /tmp/mke2fs; exit 1; }
mkdir -p /mnt/data
mount -t ext2 /dev/mapper/data /mnt/data 2>&1 || mount -t ext4 /dev/mapper/data /mnt/data
i=0; while [ $i -lt 1000 ]; do echo "` + line + `"; i=$((i+1)); done > /mnt/data/known
umount /mnt/data
cryptsetup close data
sync`)
	tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
	must.OK(t, q.Guest().WaitGone(ctx, dev))
	if ciphertext, err := os.ReadFile(image); err != nil || bytes.Contains(ciphertext, []byte(line)) {
		t.Fatalf("the guest has not encrypted its file; error %v", err)
	}

	// Without <encryption> it would be destroyed by the next mkfs.
	wantOneLine(t, tool(ctx, t, q.Socket, "attach", disk("", "plain")).want(t, 5), "encrypted with LUKS")
	key := writeFile(t, "key", passphrase)
	tool(ctx, t, q.Socket, "--passphrase-file", key, "--output", "json", "attach", disk(encryption, "opened")).want(t, 0).wantUnlock(t, "ephemeral")
	dev = guestDisk(ctx, t, q, "opened")
	if size, err := q.Guest().SizeOf(ctx, dev); err != nil || size != 48*peer.MiB {
		t.Errorf("the guest sees %d bytes, error %v", size, err)
	}
	got := inGuest(`mount -o ro -t ext2 ` + dev + ` /mnt/data 2>/dev/null || mount -o ro -t ext4 ` + dev + ` /mnt/data
sha256sum < /mnt/data/known
umount /mnt/data`)
	if !strings.HasPrefix(got, peer.HashOf([]byte(content))) {
		t.Errorf("the guest reads a file of another content: %s", got)
	}
	tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
	if left, err := filepath.Glob(filepath.Dir(image) + "/*"); err != nil || len(left) != 1 {
		t.Errorf("next to the image there are %v, error %v", left, err)
	}
}
