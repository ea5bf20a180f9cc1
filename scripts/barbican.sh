#!/usr/bin/env bash
# barbican.sh: unpacks OpenStack Barbican's API server of Debian 12 into luksplug's cache directory and prints the path.
# Nothing is installed; root is not needed. Needs mmdebstrap; takes about a minute and 250 MB.
#
# bin/python there is a wrapper that runs the release's own Python with its own libraries, so that it works on a machine of
# any age. The tests start the server with it (integration/internal/peer).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cache.sh"
cache_entry barbican barbican-bookworm-v1 ""
cache_release bookworm barbican-api,python3

# The wrapper names the final directory, so it works only after the rename.
root=$final/root
mkdir "$new/bin"
cat >"$new/bin/python" <<-WRAPPER
	#!/bin/sh
	export PYTHONHOME='$root/usr' PYTHONDONTWRITEBYTECODE=1
	exec '$root/lib64/ld-linux-x86-64.so.2' --library-path '$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu' \\
		--argv0 python3 '$root/usr/bin/python3.11' "\$@"
WRAPPER
chmod 755 "$new/bin/python"
cache_keep
