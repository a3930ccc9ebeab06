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
TMPDIR=/var/tmp mmdebstrap --quiet --variant=essential --include="$include" --aptopt="$configuration" \
  "$VERSION_CODENAME" "$file" "${sources[@]}"
