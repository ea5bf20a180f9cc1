#!/usr/bin/env bash
# nfs.sh: unpacks an NFS server, NFS-Ganesha, with the portmapper that it registers with, from the distribution into
# luksplug's cache folder and prints where. Nothing is installed: the packages would bring services and the kernel's NFS
# with them. 1 MB to fetch, 3 MB in the folder.
#
# The tests lay the folder over /usr and /etc in namespaces of their own (integration/peer). With --cached it prints the
# folder if it is there, and nothing otherwise.
set -euo pipefail
cache=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}
final=$cache/nfs-v1
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; }
[ "${1:-}" != --cached ] || exit 0

mkdir -p "$cache"
exec 9>"$final.lock"
flock 9
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; } # another process unpacked it while this one waited
new=$(mktemp -d "$cache/.nfs-v1.new-XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"

# What an installation would add to this machine, without the kernel's side and what only a booted system needs.
packages=$(apt-get -s --no-install-recommends install nfs-ganesha nfs-ganesha-vfs rpcbind |
	awk '$1 == "Inst" && $2 !~ /^(.*systemd.*|(lib)?udev.*|dbus.*|nfs-common|keyutils|kmod|libpam.*|logrotate|adduser|debconf|ucf)$/ {
		for (i = 3; i <= NF; i++) if ($i ~ /^\(/) { print $2 "=" substr($i, 2); break }
	}')
# Some of them may be installed.
for package in nfs-ganesha nfs-ganesha-vfs rpcbind; do case " $packages" in *[[:space:]]"$package="*) ;; *) packages+=" $package" ;; esac; done
mkdir "$new/packages" "$new/usr" "$new/etc"
(cd "$new/packages" && apt-get -q -o APT::Sandbox::User=root download $packages >&2)
for package in "$new"/packages/*.deb; do dpkg-deb -x "$package" "$new/root"; done
# /lib and /sbin are links into /usr on the machine, so what some package has there must lie where an overlay of /usr
# shows it.
for part in usr lib sbin; do
	[ ! -d "$new/root/$part" ] || { mkdir -p "$new/usr/${part#usr}" && cp -a "$new/root/$part/." "$new/usr/${part#usr}/"; }
done
[ ! -d "$new/root/etc" ] || cp -a "$new/root/etc/." "$new/etc/"
rm -rf "$new/packages" "$new/root" "$new"/usr/share/{doc,man}
mv -T "$new" "$final"
printf '%s\n' "$final"
