#!/usr/bin/env bash
# nfs.sh: unpacks an NFS server, NFS-Ganesha, with the portmapper that it registers with, from the distribution into
# luksplug's cache directory and prints where. Nothing is installed: the packages would bring services and the kernel's NFS
# with them. 1 MB to fetch, 3 MB in the directory.
#
# The tests lay the directory over /usr and /etc in namespaces of their own (integration/internal/peer). With --cached it prints
# the directory if it is there, and nothing otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cache.sh"
only=
[ "${1:-}" != --cached ] || only=only
cache_entry nfs nfs-v1 "" $only
wanted="nfs-ganesha nfs-ganesha-vfs rpcbind"
packages=$(cache_missing 'nfs-common|keyutils|kmod' $wanted)
# Some of them may be installed.
for package in $wanted; do case " $packages" in *[[:space:]]"$package="*) ;; *) packages+=" $package" ;; esac; done
cache_unpack $packages
cache_keep
