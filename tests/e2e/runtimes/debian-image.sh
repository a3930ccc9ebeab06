#!/usr/bin/env bash
# Makes a layer of an image: this host's own distribution with more packages, from the host's own package sources.
#
#   debian-image.sh FILE PACKAGE...    needs root
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
umask 022

file=$1
shift
# shellcheck disable=SC1091
. /etc/os-release
configuration=$(mktemp)
trap 'rm -f -- "$configuration"' EXIT
# The host's proxies hold for the image's packages too.
apt-config dump | grep '^Acquire::' >"$configuration" || true
mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -o -name '*.sources' 2>/dev/null)
include=$(IFS=,; echo "$*")
# What no build reads is two fifths of it. Go compiles its own library anew, as in the image of its makers; of the compiler of C only the linker is needed.
excluded=()
for path in '/usr/share/doc/*' '/usr/share/locale/*' '/usr/bin/rustdoc' '/usr/lib/jvm/*/jmods/*' \
  '/usr/lib/go-*/pkg/linux_*/*' '/usr/share/go-*/src/cmd/*' '/usr/share/go-*/test/*' \
  '/usr/bin/*-lto-dump-*' '/usr/lib/gcc/*/cc1' '/usr/lib/gcc/*/lto1'; do
  excluded+=(--dpkgopt="path-exclude=$path")
done
TMPDIR=/var/tmp mmdebstrap --quiet --variant=essential --include="$include" --aptopt="$configuration" "${excluded[@]}" \
  "$VERSION_CODENAME" "$file" "${sources[@]}"
