#!/usr/bin/env bash
# qemu-matrix.sh SUITE: unpacks the QEMU of another Debian release (bookworm 7.2, trixie 10.0, sid 11) into luksplug's
# cache folder and prints the folder of the programs. Nothing is installed; root is not needed. Needs mmdebstrap; takes
# about 10 seconds and 250 MB.
#
# The programs are wrappers: each calls the release's own dynamic loader with the release's own libraries, firmware and
# modules, so that they run on a machine of any age.
set -euo pipefail
suite=${1:?usage: scripts/qemu-matrix.sh SUITE}
case $suite in *[!a-z0-9-]*) echo "qemu-matrix: error: $suite is no name of a Debian release" >&2; exit 2 ;; esac
cache=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}
final=$cache/qemu-$suite-v1
[ ! -d "$final" ] || { printf '%s\n' "$final/bin"; exit; }
command -v mmdebstrap >/dev/null || { echo "qemu-matrix: error: mmdebstrap is not installed (make setup installs it)" >&2; exit 3; }

mkdir -p "$cache"
exec 9>"$final.lock"
flock 9
[ ! -d "$final" ] || { printf '%s\n' "$final/bin"; exit; } # another process unpacked it while this one waited
new=$(mktemp -d "$cache/.qemu-$suite-v1.new-XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"

# The mirror is the one from which this machine gets its own release.
codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(SITE)/ $(RELEASE) $(CODENAME)' 'Created-By: Packages' |
	awk -v codename="$codename" '$NF == codename { sub(/\/+$/, "", $1); print $1; exit }')
[ -n "$mirror" ] || { echo "qemu-matrix: error: the package lists of $codename are not there; apt-get update fetches them" >&2; exit 3; }

# A suite that moves may have been signed longer ago than its own validity where the mirror is a snapshot.
mmdebstrap --quiet --variant=extract --include=qemu-system-x86,qemu-utils \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
	--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" "$new/root" "$mirror" >&2

# The wrappers name the final folder, so they work only after the rename. New releases have no /lib64 of their own: that
# is a link which installing them makes.
libraries=$final/root/usr/lib/x86_64-linux-gnu
loader=lib64/ld-linux-x86-64.so.2
[ -e "$new/root/$loader" ] || loader=usr/$loader
mkdir "$new/bin"
for program in qemu-img qemu-io qemu-nbd qemu-storage-daemon qemu-system-x86_64; do
	firmware=""
	[ $program != qemu-system-x86_64 ] || firmware="-L '$final/root/usr/share/qemu' -L '$final/root/usr/share/seabios' -L '$final/root/usr/lib/ipxe/qemu'"
	cat >"$new/bin/$program" <<-WRAPPER
		#!/bin/sh
		export QEMU_MODULE_DIR='$libraries/qemu' GCONV_PATH='$libraries/gconv'
		exec '$final/root/$loader' --library-path '$libraries:$final/root/lib/x86_64-linux-gnu:$libraries/systemd' \\
			--argv0 $program '$final/root/usr/bin/$program' $firmware "\$@"
	WRAPPER
	chmod 755 "$new/bin/$program"
done
mv -T "$new" "$final"
printf '%s\n' "$final/bin"
