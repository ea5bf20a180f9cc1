#!/usr/bin/env bash
# libvirt.sh: unpacks libvirt from the distribution's backports into luksplug's cache directory and prints the path. Nothing
# is installed: the package of libvirt's QEMU driver would install another systemd, and services.
#
# The tests mount the directory over /usr in a mount namespace of their own (integration/internal/peer). With --cached it
# prints the directory if it exists, and nothing otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cache.sh"
only=
[ "${1:-}" != --cached ] || only=only
cache_entry libvirt libvirt-v2 "" $only
suite=$(. /etc/os-release && printf '%s-backports' "$VERSION_CODENAME")
packages=$(cache_missing '.*-dev' -t "$suite" \
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-driver-secret libvirt-daemon-driver-storage libvirt-clients)
cache_unpack $packages
cache_keep
