#!/usr/bin/env bash
# with-tmpfs-run.sh COMMAND...: runs COMMAND where /run is a tmpfs, as on every host with systemd.
#
# It makes a mount namespace with a new tmpfs, into which it bind-mounts the machine's /run except for luksplug's own
# directory. If such a namespace is not permitted, COMMAND runs with the existing /run.
set -euo pipefail
if ! refusal=$(unshare --mount true 2>&1); then
	echo "with-tmpfs-run: skipped the tmpfs on /run, which needs root: $refusal" >&2
	exec "$@"
fi
exec unshare --mount --propagation private bash -euc '
run=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$run"
for path in /run/*; do
	name=${path##*/}
	if [ "$name" = luksplug ]; then continue
	elif [ -L "$path" ]; then cp -P "$path" "$run"
	elif [ -d "$path" ]; then mkdir "$run/$name" && mount --rbind "$path" "$run/$name"
	else : > "$run/$name" && mount --bind "$path" "$run/$name"
	fi
done
mount --move "$run" /run
rmdir "$run"
exec "$@"' with-tmpfs-run "$@"
