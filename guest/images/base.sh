#!/usr/bin/env bash
# Makes the base images: the root file systems of functions that bring only their source. They are the host's own distribution, from
# the host's own package sources, with bash and Python; the second has Node beside them. Their pip and npm install what functions depend on.
#
#   base.sh --resolve               prints a hash of the versions that the images would get now; nothing when apt does not know
#   base.sh SUITE DIRECTORY NODE NPM
#                                   makes base.erofs and node.erofs in DIRECTORY; the program NODE and the package NPM go into the second; needs root
#
# Node is not taken from the distribution: Debian 12 has 18, which gets no more fixes and runs no TypeScript.
#
# Times and the file system's id are fixed, so the same packages give the same bytes.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
umask 022

# libstdc++6 is what Node and most of Python's compiled packages need of a system.
wanted='bash ca-certificates libstdc++6 python3 python3-pip'

if [ "$1" = --resolve ]; then
  essential=$(dpkg-query -W -f='${Essential} ${Package}\n' | sed -n 's/^yes //p')
  # shellcheck disable=SC2086
  names=$(apt-cache -i depends --recurse $wanted $essential 2>/dev/null | grep '^[a-z0-9]' | sort -u) || exit 0
  # apt knows what is installed also when it has no lists of what there is.
  # shellcheck disable=SC2086
  policy=$(apt-cache policy $names)
  grep -q '://' <<<"$policy" || exit 0
  sed -n 's/^\(\S*\):$/\1/p; s/^ *Candidate://p' <<<"$policy" | sha256sum | cut -c 1-16
  exit 0
fi

suite=$1
directory=$2
node=$3
npm=$4

# On the disk: the tree is too large for a /tmp in memory.
work=$(TMPDIR=${TMPDIR:-/var/tmp} mktemp -d)
trap 'rm -rf --one-file-system -- "$work"' EXIT

# The distribution's own sources alone: a third party's might not know the suite, and would add to the image.
apt-get indextargets --format "\$(ORIGIN) \$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' |
  while read -r origin release component uri; do
    case "$origin $component $release" in
      "Debian main $suite" | "Debian main $suite-updates" | "Debian main $suite-security") ;;
      "Ubuntu main $suite" | "Ubuntu main $suite-updates" | "Ubuntu main $suite-security") ;;
      *) continue ;;
    esac
    echo "deb $uri $release $component"
  done | sort -u >"$work/sources.list"
[ -s "$work/sources.list" ] || { echo "apt has no source of this distribution's suite $suite" >&2; exit 1; }

# The host's proxies and checks of age hold for the image's packages too.
apt-config dump | grep '^Acquire::' >"$work/apt.conf" || true

include=${wanted// /,}
hooks=()
merged=/usr/share/mmdebstrap/hooks/merged-usr
# A file system merged from the start needs no usrmerge, which brings 50 MB of Perl.
if [ -d "$merged" ] && apt-cache depends init-system-helpers | grep -q usr-is-merged; then
  hooks=(--hook-dir="$merged")
  include+=,usr-is-merged
fi

TMPDIR=${TMPDIR:-/var/tmp} mmdebstrap --quiet --variant=essential --include="$include" ${hooks[@]+"${hooks[@]}"} \
  --aptopt="$work/apt.conf" \
  --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
  --dpkgopt='path-exclude=/usr/share/bug/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/i18n/*' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/lintian/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  "$suite" "$work/base.tar" - <"$work/sources.list"

mkdir -- "$work/tree"
# Device nodes are made in the sandbox, not brought.
tar -C "$work/tree" -xf "$work/base.tar" --numeric-owner --exclude='./dev/*'
rm -- "$work/base.tar"
cd -- "$work/tree"
rm -rf -- etc/apt etc/hostname etc/machine-id etc/resolv.conf var/cache/apt/* var/cache/debconf/* var/cache/ldconfig/* \
  var/lib/apt/lists/* var/lib/dpkg/*-old var/log/*
# The day on which a password was last changed is the day of the build.
if [ -e etc/shadow ]; then sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:1:/' etc/shadow; fi
rm -f -- etc/*-
mkdir -p function work
# Python compiles what it imports at every start unless it finds the result; this form of it does not depend on times, nor on the hashes of one run.
find . -name __pycache__ -prune -exec rm -rf -- {} +
PYTHONHASHSEED=0 chroot . /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3*
cd /
image() {
  mkfs.erofs -T 0 -U 00000000-0000-0000-0000-000000000000 "$directory/$1.erofs" "$work/tree"
}
image base
install -m 755 -- "$node" "$work/tree/usr/local/bin/node"
modules=$work/tree/usr/local/lib/node_modules
mkdir -p -- "$modules"
cp -R --no-preserve=ownership -- "$npm" "$modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/tree/usr/local/bin/npm"
for program in node npm; do chroot "$work/tree" "/usr/local/bin/$program" --version; done
image node
