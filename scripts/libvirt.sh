#!/usr/bin/env bash
# libvirt.sh: unpacks libvirt from the distribution's backports into luksplug's cache folder and prints where. Nothing is
# installed: the package of libvirt's QEMU driver would bring another systemd with it, and services.
#
# The tests lay the folder over /usr in a mount namespace of their own (integration/peer). With --cached it prints the
# folder if it is there, and nothing otherwise.
set -euo pipefail
cache=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}
final=$cache/libvirt-v2
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; }
[ "${1:-}" != --cached ] || exit 0

mkdir -p "$cache"
exec 9>"$final.lock"
flock 9
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; } # another process unpacked it while this one waited
new=$(mktemp -d "$cache/.libvirt-v2.new-XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"

# What an installation would add to this machine, without what only a booted system needs.
suite=$(. /etc/os-release && printf '%s-backports' "$VERSION_CODENAME")
packages=$(apt-get -s -t "$suite" --no-install-recommends install \
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-driver-secret libvirt-daemon-driver-storage libvirt-clients |
	awk '$1 == "Inst" && $2 !~ /^(.*systemd.*|(lib)?udev.*|dbus.*|libpam.*|logrotate|cron.*|adduser|debconf|.*-dev)$/ {
		for (i = 3; i <= NF; i++) if ($i ~ /^\(/) { print $2 "=" substr($i, 2); break }
	}')
mkdir "$new/packages" "$new/usr"
(cd "$new/packages" && apt-get -q -o APT::Sandbox::User=root download $packages >&2)
for package in "$new"/packages/*.deb; do dpkg-deb -x "$package" "$new/root"; done
# /lib is a link to /usr/lib on the machine, so what some package has there must lie where an overlay of /usr shows it.
for part in usr lib; do [ ! -d "$new/root/$part" ] || cp -a "$new/root/$part/." "$new/usr/$([ $part = usr ] || echo lib)/"; done
rm -rf "$new/packages" "$new/root"
mv -T "$new" "$final"
printf '%s\n' "$final"
