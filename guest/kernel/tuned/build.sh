#!/usr/bin/env bash
# Builds the tuned guest kernel from Debian's kernel source: what guest.config names is built in, nothing else is there.
#
#   build.sh --resolve PACKAGE             prints `SOURCE VERSION`, what PACKAGE (linux-source) means now; nothing when apt does not know
#   build.sh SOURCE VERSION DIRECTORY      leaves in DIRECTORY:
#     vmlinux    an ELF with the PVH entry point
#     release    what `uname -r` says in the guest
#
# No modules and no load order are there. Takes minutes, and about 2 GB in TMPDIR, or else /var/tmp. Needs no root.
set -euo pipefail
export LC_ALL=C

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

if [ "$1" = --resolve ]; then
  source=$(apt-cache depends "$2" 2>/dev/null | sed -n 's/^ *Depends: \(linux-source-[0-9].*\)$/\1/p' | sed -n 1p)
  [ -n "$source" ] || exit 0
  version=$(apt-cache policy "$source" | sed -n 's/^ *Candidate: //p')
  echo "$source $version"
  exit 0
fi

source=$1
version=$2
directory=$(cd -- "$3" && pwd)
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# On the disk: the tree is too large for a /tmp in memory.
work=$(TMPDIR=${TMPDIR:-/var/tmp} mktemp -d)
trap 'rm -rf -- "$work"' EXIT
# Under root apt downloads as a user of its own, which must be able to write there.
chmod 755 "$work"
if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$work"; fi

cd -- "$work"
apt-get download "$source=$version"
dpkg-deb -x ./*.deb package
mkdir linux
tar -C linux --strip-components=1 -xf "package/usr/src/$source.tar.xz"
rm -rf -- ./*.deb package
cd linux

# --- The configuration

make -s KCONFIG_ALLCONFIG="$here/guest.config" allnoconfig
make -s olddefconfig

# A name that this kernel does not have, or whose conditions are not met, would be passed over in silence.
not_taken=$(
  while read -r line; do
    case "$line" in
      CONFIG_*) grep -qxF -- "$line" .config || echo "$line" ;;
      '# CONFIG_'*' is not set')
        name=${line#'# '}
        if grep -q "^${name%' is not set'}=" .config; then echo "$line"; fi
        ;;
    esac
  done <"$here/guest.config"
)
[ -z "$not_taken" ] || fail "this kernel does not take these lines of guest.config:
$not_taken"

# --- The kernel

# The same source gives the same bytes: the guest sees who built it, when, and for the how many-th time.
export KBUILD_BUILD_USER=cocore KBUILD_BUILD_HOST=cocore KBUILD_BUILD_VERSION=1
KBUILD_BUILD_TIMESTAMP=$(date -u -r Makefile)
export KBUILD_BUILD_TIMESTAMP
make -s -j"$(nproc)" vmlinux

objcopy --strip-all vmlinux "$directory/vmlinux"
readelf --notes --wide "$directory/vmlinux" | grep -q '^ *Xen .*0x00000012' || fail 'the kernel has no PVH entry point'
make -s kernelrelease >"$directory/release"
