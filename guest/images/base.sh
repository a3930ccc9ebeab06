#!/usr/bin/env bash
# Makes the base image: the root file system of functions that bring only their source.
#
#   base.sh SUITE DIRECTORY
#
# Needs root. Leaves `base.erofs` in DIRECTORY: the host's own distribution (from the host's own package sources), with bash
# and Python. Times and the file system's id are fixed, so the same packages give the same bytes.
set -euo pipefail

suite=$1
directory=$2

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# Only the distribution's own sources: a third party's would not know the suite, or would add to the image.
mapfile -t sources < <(grep -lE "(^Suites:|^deb ).*\b$suite\b" /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
  xargs -r grep -lE 'debian|ubuntu' | sort)

mmdebstrap --quiet --variant=essential --include=bash,ca-certificates,python3 \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/i18n/*' \
  "$suite" "$work/base.tar" ${sources[@]+"${sources[@]}"}

mkdir "$work/tree"
# Device nodes are made in the sandbox, not brought.
tar -C "$work/tree" -xf "$work/base.tar" --numeric-owner --exclude='./dev/*'
cd -- "$work/tree"
rm -rf -- var/lib/apt/lists/* var/cache/apt/* var/cache/ldconfig/* var/log/* var/cache/debconf/*-old var/lib/dpkg/*-old etc/machine-id etc/hostname etc/resolv.conf etc/apt
find . -name '__pycache__' -prune -exec rm -rf -- {} +
mkdir -p function work
cd -- "$work"
# Python compiles what it imports at every start unless it finds the result; the hash form does not depend on times.
chroot tree /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3* >/dev/null || true

mkfs.erofs -d 0 -T 0 -U 00000000-0000-0000-0000-000000000000 "$directory/base.erofs" tree
