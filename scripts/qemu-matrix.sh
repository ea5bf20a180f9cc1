#!/usr/bin/env bash
# qemu-matrix.sh SUITE [ceph]: unpacks the QEMU of another Debian release (bookworm 7.2, trixie 10.0, sid 11) into
# luksplug's cache directory and prints the directory of the programs. Nothing is installed; root is not needed. Needs
# mmdebstrap; takes about 10 seconds and 250 MB. With ceph, it includes the release's Ceph and QEMU's drivers for servers:
# a minute and 400 MB. With --cached in place of ceph it prints nothing if the cache lacks Ceph.
#
# The programs are wrappers: each calls the release's own dynamic loader with the release's own libraries, firmware and
# modules, so that they run on a machine of any age.
set -euo pipefail
suite=${1:?usage: scripts/qemu-matrix.sh SUITE}
case $suite in *[!a-z0-9-]*) echo "qemu-matrix: error: $suite is not a name of a Debian release" >&2; exit 2 ;; esac
. "$(dirname "${BASH_SOURCE[0]}")/cache.sh"
programs=(qemu-img qemu-io qemu-nbd qemu-storage-daemon qemu-system-x86_64)
packages=qemu-system-x86,qemu-utils
name=qemu-$suite-v1
case ${2:-} in
"") ;;
ceph | --cached)
	programs+=(ceph ceph-authtool ceph-mon ceph-osd monmaptool osdmaptool rbd)
	packages+=,qemu-block-extra,ceph-common,ceph-mon,ceph-osd
	name=ceph-$suite-v1
	;;
*) echo "qemu-matrix: error: $2 is not known; it can be ceph" >&2; exit 2 ;;
esac
only=
[ "${2:-}" != --cached ] || only=only
cache_entry qemu-matrix "$name" /bin $only
cache_release "$suite" "$packages"

# The wrappers name the final directory, so they work only after the rename. Unpacked new releases have no /lib64, a link
# that their installation makes.
libraries=$final/root/usr/lib/x86_64-linux-gnu
loader=lib64/ld-linux-x86-64.so.2
[ -e "$new/root/$loader" ] || loader=usr/$loader
mkdir "$new/bin"
for program in "${programs[@]}"; do
	script="" firmware=""
	[ $program != ceph ] || script="'$final/root/usr/bin/python3' -sS" # a script of Python, and of the release's own
	[ $program != qemu-system-x86_64 ] || firmware="-L '$final/root/usr/share/qemu' -L '$final/root/usr/share/seabios' -L '$final/root/usr/lib/ipxe/qemu'"
	cat >"$new/bin/$program" <<-WRAPPER
		#!/bin/sh
		export QEMU_MODULE_DIR='$libraries/qemu' GCONV_PATH='$libraries/gconv'
		export PYTHONHOME='$final/root/usr' PYTHONPATH='$final/root/usr/lib/python3/dist-packages' PYTHONDONTWRITEBYTECODE=1
		exec '$final/root/$loader' --library-path '$libraries:$final/root/lib/x86_64-linux-gnu:$libraries/systemd:$libraries/ceph' \\
			--argv0 $program $script '$final/root/usr/bin/$program' $firmware "\$@"
	WRAPPER
	chmod 755 "$new/bin/$program"
done
# No test needs these, which take a third of the space.
rm -rf "$new"/root/usr/share/{doc,man,locale} "$new"/root/usr/bin/{qemu-system-i386,qemu-system-x86_64-microvm,radosgw-admin,ceph-*-tool,cephfs-*}
cache_keep
