#!/usr/bin/env bash
# setup.sh build|demo|test: installs missing packages on a Debian 12 (or newer) machine, as root or with sudo.
#
#   build  Go and git
#   demo   that, QEMU 9 or newer and cryptsetup
#   test   that, a C compiler (for Go's race detector), mmdebstrap, servers, and a libvirt and a Ceph in the cache directory
#
# It changes nothing and takes well under half a second if nothing is missing. It prints a line for each installation.
# If the distribution's own version is too old, the package comes from its backports; the mirror and the key are those of
# the machine's own package sources. No service is started, neither now nor at boot.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=/usr/local/go/bin:$PATH:/usr/sbin:/sbin

# The minimum versions.
go_minimum=1.21   # from this version on, Go fetches the version in go.mod
qemu_minimum=9    # the luks driver's "header"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

work=$(mktemp -d)
policy="" # the path of our policy-rc.d, which keeps services from starting, while it exists
trap 'rm -rf "$work"; [ -z "$policy" ] || as_root rm -f "$policy"' EXIT

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }

# may_install: fails with a message if as_root cannot work; to be called before its output goes to a log.
may_install() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "packages or their lists are missing; run this as root, or install sudo"; }

# apt COMMAND...: apt-get without questions; its output appears only when it fails.
apt() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" \
		>"$work/apt.log" 2>&1 && return
	tail -n 15 "$work/apt.log" >&2
	die "apt-get $1 failed (its last lines are above)"
}

# update_lists AGE: fetches the package lists unless they are younger than AGE days.
update_lists() {
	[ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Release' -mtime "-$1" -print -quit 2>/dev/null)" ] && return
	may_install
	say "fetching the package lists"
	apt update
}

codename() { . /etc/os-release && printf '%s' "${VERSION_CODENAME:-}"; }

# sources_as_deb822: prints the machine's package sources in deb822 form. One-line entries are converted.
sources_as_deb822() {
	local file
	for file in /etc/apt/sources.list.d/*.sources; do
		[ ! -r "$file" ] || { cat "$file"; printf '\n\n'; }
	done
	# sed adds the line feed that a file's last line may lack.
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -r "$file" ] || sed '$a\' "$file"
	done | awk '
		$1 == "deb" {
			key = ""; i = 2
			if ($2 ~ /^\[/) {
				for (;; i++) {
					option = $i; gsub(/[][]/, "", option)
					if (tolower(option) ~ /^signed-by=/) key = substr(option, 11)
					if ($i ~ /\]$/ || i >= NF) break
				}
				i++
			}
			printf "\nTypes: deb\nURIs: %s\nSuites: %s\nComponents: main\n", $i, $(i + 1)
			if (key != "") printf "Signed-By: %s\n", key
		}'
}

# backports_stanza SUITE: prints the stanza of SUITE in the machine's own sources, with SUITE's backports instead of SUITE.
backports_stanza() {
	sources_as_deb822 | awk -v suite="$1" '
		function flush(   i, words, n, hit) {
			n = split(field["suites"], words, /[ \t]+/)
			for (i = 1; i <= n; i++) if (words[i] == suite) hit = 1
			if (hit && field["types"] ~ /(^| )deb( |$)/ && tolower(field["enabled"]) != "no" && !found) {
				found = 1
				split(field["uris"], words, /[ \t]+/)
				printf "Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n", words[1], suite
				if (field["signed-by"] != "") printf "Signed-By: %s\n", field["signed-by"]
			}
			delete field; name = ""
		}
		/^#/ { next }
		/^[ \t]*$/ { flush(); next }
		/^[ \t]/ { if (name != "") field[name] = field[name] "\n" $0; next }
		{ name = tolower($0); sub(/:.*/, "", name); value = $0; sub(/^[^:]*:[ \t]*/, "", value); field[name] = value }
		END { flush() }'
}

# want_backports: adds the backports to apt's sources.
want_backports() {
	local suite; suite=$(codename)
	[ -n "$suite" ] || die "/etc/os-release names no release, so its backports are unknown"
	apt-cache policy | grep -q "n=$suite-backports[, ]" && return
	local stanza; stanza=$(backports_stanza "$suite")
	[ -n "$stanza" ] || die "no package source for $suite found in /etc/apt, so the mirror of its backports is unknown"
	may_install
	say "adding $suite-backports to the package sources"
	printf '%s\n' "$stanza" | as_root tee /etc/apt/sources.list.d/luksplug-backports.sources >/dev/null
	apt update
}

# install WHAT PACKAGE...: installs packages from the distribution.
install() {
	may_install
	update_lists 1
	say "installing $1 (${*:2})"
	apt install --no-install-recommends "${@:2}"
}

# install_newer WHAT MINIMUM PACKAGE...: installs from the distribution, or from its backports if it is older than MINIMUM.
install_newer() {
	may_install
	update_lists 1
	local from=() candidate
	candidate=$(apt-cache policy "$3" | awk '$1 == "Candidate:" { print $2 }')
	if ! dpkg --compare-versions "${candidate#*:}" ge "$2"; then
		want_backports
		from=(-t "$(codename)-backports")
	fi
	say "installing $1 (${*:3})${from[1]:+ from ${from[1]}}"
	apt install --no-install-recommends "${from[@]}" "${@:3}"
}

# install_idle WHAT UNITS PACKAGE...: installs packages from the distribution without starting their services, now
# (policy-rc.d, which deb-systemd-invoke and invoke-rc.d query) and at boot.
install_idle() {
	may_install
	local units
	read -ra units <<<"$2"
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	install "$1" "${@:3}"
	[ -z "$policy" ] || as_root rm -f "$policy"
	policy=""
	! command -v systemctl >/dev/null || as_root systemctl disable "${units[@]}" >/dev/null 2>&1 || true # some belong to other packages
}

# newer_than MINIMUM VERSION
newer_than() { [ -n "$2" ] && dpkg --compare-versions "$2" ge "$1"; }

setup_build() {
	local version=""
	! command -v go >/dev/null || version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true)
	newer_than "$go_minimum" "${version#go}" || install_newer Go "$go_minimum" golang-go
	local missing=()
	command -v git >/dev/null || missing+=(git)
	[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
	[ ${#missing[@]} = 0 ] || install "tools to build" "${missing[@]}"
}

# version_of PROGRAM: prints the first version number that it reports; nothing if it is not installed.
version_of() { ! command -v "$1" >/dev/null || "$1" --version 2>/dev/null | sed -nE '1s/.*version ([0-9.]+).*/\1/p'; }

setup_demo() {
	if ! newer_than "$qemu_minimum" "$(version_of qemu-system-x86_64)" || ! newer_than "$qemu_minimum" "$(version_of qemu-img)"; then
		install_newer QEMU "$qemu_minimum" qemu-system-x86 qemu-utils
	fi
	command -v cryptsetup >/dev/null || install cryptsetup cryptsetup-bin
	# The guest's packages are downloaded and not installed, which needs recent package lists.
	local cache=${LUKSPLUG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luksplug}
	[ -n "$(find "$cache" -maxdepth 1 -name 'guest-*-v*' -type d -print -quit 2>/dev/null)" ] || update_lists 1
}

# unpack WHAT SCRIPT [ARGUMENT...]: runs a script that fills the cache directory, unless with --cached in place of its last
# argument it prints a directory.
unpack() {
	[ -z "$("$2" ${3:+"$3"} --cached)" ] || return 0
	update_lists 1
	want_backports
	say "unpacking $1 into the cache directory"
	"${@:2}" >"$work/unpack.log" 2>&1 || { tail -n 15 "$work/unpack.log" >&2; die "unpacking $1 failed (the last lines are above)"; }
}

setup_test() {
	local missing=()
	command -v gcc >/dev/null || missing+=(gcc)
	[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	# For the tests of key stores.
	local program
	for program in age clevis jose socat; do command -v $program >/dev/null || missing+=($program); done
	for program in gnome-keyring dbus-daemon; do command -v ${program/%keyring/keyring-daemon} >/dev/null || missing+=($program); done
	command -v secret-tool >/dev/null || missing+=(libsecret-tools)
	command -v pykmip-server >/dev/null || missing+=(python3-pykmip)
	command -v softhsm2-util >/dev/null || missing+=(softhsm2)
	command -v sfdisk >/dev/null || missing+=(fdisk)
	[ -x /usr/libexec/tangd ] || missing+=(tang-common)
	[ ${#missing[@]} = 0 ] || install "tools to test" "${missing[@]}"
	# QEMU's drivers for servers, and the servers.
	[ -e /usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so ] || install_newer "QEMU's drivers for servers" "$qemu_minimum" qemu-block-extra
	local servers=() units=()
	command -v tgtd >/dev/null || { servers+=(tgt); units+=(tgt.service); }
	command -v nginx >/dev/null || { servers+=(nginx); units+=(nginx.service); }
	command -v sshd >/dev/null || { servers+=(openssh-server); units+=(ssh.service ssh.socket); }
	command -v apparmor_parser >/dev/null || { servers+=(apparmor); units+=(apparmor.service); } # reads profiles, also where the kernel has no AppArmor
	[ ${#servers[@]} = 0 ] || install_idle "servers to test with" "${units[*]}" "${servers[@]}"
	unpack libvirt scripts/libvirt.sh
	unpack "Ceph and its QEMU" scripts/qemu-matrix.sh trixie ceph
}

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "this set-up supports only Debian on amd64"
case ${1:-} in
build) setup_build ;;
demo) setup_build; setup_demo ;;
test) setup_build; setup_demo; setup_test ;;
*) die "usage: scripts/setup.sh build|demo|test" ;;
esac
