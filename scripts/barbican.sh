#!/usr/bin/env bash
# barbican.sh: unpacks OpenStack Barbican's API server of Debian 12 into luksplug's cache folder and prints where. Nothing
# is installed; root is not needed. Needs mmdebstrap; takes about a minute and 250 MB.
#
# bin/python there is a wrapper that runs the release's own Python with its own libraries, so that it works on a machine of
# any age. The tests start the server with it (integration/peer).
set -euo pipefail
suite=bookworm
cache=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}
final=$cache/barbican-$suite-v1
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; }
command -v mmdebstrap >/dev/null || { echo "barbican: error: mmdebstrap is not installed (make setup installs it)" >&2; exit 3; }

mkdir -p "$cache"
exec 9>"$final.lock"
flock 9
[ ! -d "$final" ] || { printf '%s\n' "$final"; exit; } # another process unpacked it while this one waited
new=$(mktemp -d "$cache/.barbican-$suite-v1.new-XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"

# The mirror is the one from which this machine gets its own release.
codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(SITE)/ $(RELEASE) $(CODENAME)' 'Created-By: Packages' |
	awk -v codename="$codename" '$NF == codename { sub(/\/+$/, "", $1); print $1; exit }')
[ -n "$mirror" ] || { echo "barbican: error: the package lists of $codename are not there; apt-get update fetches them" >&2; exit 3; }

mmdebstrap --quiet --variant=extract --include=barbican-api,python3 \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
	--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" "$new/root" "$mirror" >&2

# The wrapper names the final folder, so it works only after the rename.
root=$final/root
mkdir "$new/bin"
cat >"$new/bin/python" <<-WRAPPER
	#!/bin/sh
	export PYTHONHOME='$root/usr' PYTHONDONTWRITEBYTECODE=1
	exec '$root/lib64/ld-linux-x86-64.so.2' --library-path '$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu' \\
		--argv0 python3 '$root/usr/bin/python3.11' "\$@"
WRAPPER
chmod 755 "$new/bin/python"
mv -T "$new" "$final"
printf '%s\n' "$final"
