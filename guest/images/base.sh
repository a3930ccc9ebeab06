#!/usr/bin/env bash
# Makes the base image: the root file system of functions that bring only their source. It is the host's own distribution, from
# the host's own package sources, with bash and Python.
#
#   base.sh --resolve        prints a name for the versions that the image would get now; nothing when apt does not know
#   base.sh SUITE FILE       makes FILE, an erofs image; needs root
#
# Times and the file system's id are fixed, so the same packages give the same bytes.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
umask 022

include=(bash ca-certificates python3)

if [ "$1" = --resolve ]; then
  # All that the named packages and the essential ones bring with them.
  mapfile -t essential < <(dpkg-query -W -f='${Essential} ${Package}\n' | sed -n 's/^yes //p')
  apt-cache -i --no-recommends --no-suggests depends --recurse "${include[@]}" "${essential[@]}" 2>/dev/null | grep '^[a-z0-9]' | sort -u >/dev/null || exit 0
  apt-cache -i depends --recurse "${include[@]}" "${essential[@]}" 2>/dev/null | grep '^[a-z0-9]' | sort -u |
    xargs apt-cache policy | sed -n 's/^\(\S*\):$/\1/p; s/^ *Candidate://p' | sha256sum | cut -c 1-16
  exit 0
fi
