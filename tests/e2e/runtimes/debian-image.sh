#!/usr/bin/env bash
# Makes a layer of an image: this host's own distribution with more packages, from the host's own package sources. Prints the path of its archive.
#
#   debian-image.sh DIRECTORY PACKAGE...    needs root
#
# It is kept in DIRECTORY, the last one alone, and taken from there until apt would install other versions.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
umask 022

directory=$1
shift
# shellcheck disable=SC1091
. /etc/os-release

mapfile -t names < <(apt-cache -i depends --recurse "$@" | grep '^[a-z0-9]' | sort -u)
versions=$(apt-cache policy "${names[@]}" | sed -n 's/^\(\S*\):$/\1/p; s/^ *Candidate://p')
key=$(cat -- "${BASH_SOURCE[0]}" - <<<"$VERSION_CODENAME $* $versions" | sha256sum | cut -c 1-16)
file=$directory/$key.tar
if [ -e "$file" ]; then
  echo "$file"
  exit 0
fi

mkdir -p -- "$directory"
rm -f -- "$directory"/*.tar
configuration=$(mktemp)
trap 'rm -f -- "$configuration" "$file.part"' EXIT
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
  --format=tar "$VERSION_CODENAME" "$file.part" "${sources[@]}"
mv -- "$file.part" "$file"
echo "$file"
