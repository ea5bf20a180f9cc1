#!/usr/bin/env bash
# nfs.sh: unpacks NFS-Ganesha and the portmapper with which it registers, from the distribution into luksplug's cache
# directory, and prints the path. Nothing is installed: the packages would install services and the kernel's NFS. 1 MB to
# fetch, 3 MB in the directory.
#
# The tests mount the directory over /usr and /etc in namespaces of their own (integration/internal/peer). With --cached it
# prints the directory if it exists, and nothing otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cache.sh"
only=
[ "${1:-}" != --cached ] || only=only
cache_entry nfs nfs-v1 "" $only
wanted="nfs-ganesha nfs-ganesha-vfs rpcbind"
packages=$(cache_missing 'nfs-common|keyutils|kmod' $wanted)
# cache_missing leaves out those that are installed.
for package in $wanted; do case " $packages" in *[[:space:]]"$package="*) ;; *) packages+=" $package" ;; esac; done
cache_unpack $packages
cache_keep
