# cache.sh: functions of the scripts that unpack Debian packages into luksplug's cache directory, without installing them.
# bash with set -euo pipefail sources it.

# cache_entry SCRIPT NAME RESULT [only]: prints the directory RESULT, which is or lies in the entry NAME, and exits if the
# cache has that entry; with only, it exits in any case. Otherwise it sets final, the entry's path, and new, an empty
# directory, which cache_keep makes the entry, and which is removed at the script's end otherwise. Processes that want the
# same entry wait for the first.
cache_entry() {
	cache_script=$1 final=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}/$2 cache_result=$3
	cache_there
	[ "${4:-}" != only ] || exit 0
	mkdir -p "${final%/*}"
	exec 9>"$final.lock"
	flock 9
	cache_there # another process unpacked it while this one waited
	new=$(mktemp -d "${final%/*}/.$2.new-XXXXXX")
	trap 'rm -rf "$new"' EXIT
	chmod 755 "$new"
}

cache_there() {
	[ ! -d "$final" ] || { printf '%s\n' "$final$cache_result"; exit; }
}

# cache_keep makes new the entry, and prints its path.
cache_keep() {
	mv -T "$new" "$final"
	cache_there
}

# cache_fail MESSAGE ends the script with an error, for a missing program or package list.
cache_fail() {
	echo "$cache_script: error: $1" >&2
	exit 3
}

# cache_release SUITE PACKAGES: unpacks packages of a Debian release, separated by commas, with their dependencies, into
# new/root. The mirror is the one of this machine's own release. Check-Valid-Until is off because the Release file of a
# rolling suite has expired on a snapshot mirror.
cache_release() {
	command -v mmdebstrap >/dev/null || cache_fail "mmdebstrap is not installed (make setup installs it)"
	local codename mirror
	codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(SITE)/ $(RELEASE) $(CODENAME)' 'Created-By: Packages' |
		awk -v codename="$codename" '$NF == codename { sub(/\/+$/, "", $1); print $1; exit }')
	[ -n "$mirror" ] || cache_fail "the package lists of $codename are not there; apt-get update fetches them"
	mmdebstrap --quiet --variant=extract --include="$2" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$1" "$new/root" "$mirror" >&2
}

# cache_missing EXCEPT ARGUMENT...: prints what apt-get install ARGUMENT... would add to this machine, as NAME=VERSION,
# without those whose names match the regular expression EXCEPT, and without packages that only a booted system needs.
cache_missing() {
	apt-get -s --no-install-recommends install "${@:2}" |
		awk -v except="^(.*systemd.*|(lib)?udev.*|dbus.*|libpam.*|logrotate|cron.*|adduser|debconf|ucf|$1)\$" '$1 == "Inst" && $2 !~ except {
			for (i = 3; i <= NF; i++) if ($i ~ /^\(/) { print $2 "=" substr($i, 2); break }
		}'
}

# cache_unpack PACKAGE...: unpacks packages of this machine's release into new/usr and new/etc, to be mounted over the
# machine's. /lib and /sbin are links into /usr there, so files of a package in them go to usr.
cache_unpack() {
	mkdir "$new/packages" "$new/usr" "$new/etc"
	(cd "$new/packages" && apt-get -q -o APT::Sandbox::User=root download "$@" >&2)
	local package part
	for package in "$new"/packages/*.deb; do dpkg-deb -x "$package" "$new/root"; done
	for part in usr lib sbin; do
		[ ! -d "$new/root/$part" ] || { mkdir -p "$new/usr/${part#usr}" && cp -a "$new/root/$part/." "$new/usr/${part#usr}/"; }
	done
	[ ! -d "$new/root/etc" ] || cp -a "$new/root/etc/." "$new/etc/"
	rm -rf "$new/packages" "$new/root" "$new"/usr/share/{doc,man}
}
