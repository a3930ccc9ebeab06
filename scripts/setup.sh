#!/usr/bin/env bash
# Makes this machine able to run CoCore: installs missing Debian packages, then builds what a microVM starts from.
#
#   setup.sh [--tests]
#
# Runs as root, or as a user with sudo (only apt and the making of the base image need root). Says what it does; says
# nothing when there is nothing to do. --tests adds what only the tests need.
#
# The artifacts go to the cache directory: $COCORE_CACHE_DIR, else $XDG_CACHE_HOME/cocore, else ~/.cache/cocore.
#   kernel/KEY/    vmlinux, modules/        guest/KEY/   initrd.img
#   images/KEY/    base.erofs               current.json the paths of all of them
# KEY is a hash over everything that went in, so nothing stale is ever used; each is built beside its place and renamed
# into it, so nothing half-made is ever seen.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

with_tests=no
for argument in "$@"; do
  case "$argument" in
    --tests) with_tests=yes ;;
    *) fail "setup.sh does not know $argument; it takes --tests." ;;
  esac
done

# --- The machine

[ -r /etc/os-release ] || fail 'this is not a Debian or Ubuntu system; CoCore sets itself up on Debian 12, Debian 13 and Ubuntu 22.04 or newer.'
# shellcheck disable=SC1091
. /etc/os-release
case "${ID:-}" in
  debian) kernel_package=linux-image-cloud-amd64 ;;
  ubuntu) kernel_package=linux-image-virtual ;;
  *) fail "${PRETTY_NAME:-this system} is not known here; CoCore sets itself up on Debian 12, Debian 13 and Ubuntu 22.04 or newer." ;;
esac
[ "$(dpkg --print-architecture)" = amd64 ] || fail 'this is not an x86-64 system.'

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    fail "\`$*\` needs root, and there is no sudo; run this as root once."
  fi
}

# --- Debian packages

# NAME REASON, a line each.
packages() {
  cat <<'END'
gcc builds the agent
libc6-dev builds the agent
make builds the agent
qemu-system-x86 runs the microVMs
crun starts the container inside the microVM
erofs-utils makes read-only file systems
e2fsprogs makes the writable layer
mmdebstrap makes the base image
ca-certificates is part of the base image
cpio packs the initramfs
kmod finds the kernel modules
lz4 unpacks the kernel
xz-utils unpacks kernel modules
zstd unpacks kernel modules
util-linux confines the microVMs
END
  if [ "$with_tests" = yes ]; then
    cat <<'END'
clang fuzzes the agent's frame parser
python3 makes the golden frames
END
    # The fuzzer's run-time library is named for clang's version.
    version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\).*/\1/p' | head -n 1)
    [ -z "$version" ] || echo "libclang-rt-$version-dev fuzzes the agent's frame parser"
  fi
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

missing_packages() {
  packages | while read -r name reason; do
    is_installed "$name" || printf '%s %s\n' "$name" "$reason"
  done
}

apt_updated=no
apt_update() {
  [ "$apt_updated" = no ] || return 0
  echo 'set-up: apt-get update'
  as_root apt-get update -qq || fail 'apt-get update failed; see its message above.'
  apt_updated=yes
}

missing=$(missing_packages)
if [ -n "$missing" ]; then
  apt_update
  missing=$(missing_packages)
  echo 'set-up: these Debian packages are missing'
  while read -r name reason; do printf '  %-22s %s\n' "$name" "$reason"; done <<<"$missing"
  began=$SECONDS
  log=$(mktemp)
  # shellcheck disable=SC2046
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(cut -d ' ' -f 1 <<<"$missing") >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f -- "$log"
    fail 'apt-get install failed; see its message above.'
  fi
  rm -f -- "$log"
  echo "set-up: installed in $((SECONDS - began)) s"
fi

# --- Artifacts

home=${HOME:-$(getent passwd "$(id -u)" | cut -d : -f 6)}
cache=${COCORE_CACHE_DIR:-${XDG_CACHE_HOME:-$home/.cache}/cocore}
mkdir -p -- "$cache" || fail "the cache directory $cache cannot be made; set COCORE_CACHE_DIR to one that can."
cache=$(cd -- "$cache" && pwd)

# Two set-ups at once build once.
exec 9>"$cache/.lock"
flock 9

hash_of() {
  sha256sum | cut -c 1-16
}

version_of() {
  dpkg-query -W -f='${Package} ${Version}\n' "$@"
}

# artifact KIND KEY COMMAND...: makes $cache/KIND/KEY by running COMMAND with a directory to fill, unless it is there.
artifact() {
  local kind=$1 key=$2 began=$SECONDS
  shift 2
  local place=$cache/$kind/$key
  if [ ! -d "$place" ]; then
    mkdir -p -- "$cache/$kind"
    # What an interrupted set-up left; the lock says that nobody else is at it.
    as_root rm -rf -- "$cache/$kind/".making-*
    local making=$cache/$kind/.making-$key
    mkdir -- "$making"
    printf 'set-up: %s ... ' "$kind"
    if ! "$@" "$making" >"$making.log" 2>&1; then
      echo failed
      tail -n 20 -- "$making.log" >&2
      as_root rm -rf -- "$making" "$making.log"
      fail "the $kind could not be made; see its message above."
    fi
    rm -f -- "$making.log"
    mv -- "$making" "$place"
    echo "built in $((SECONDS - began)) s"
    # The newest two stay: a checkout of another version may want the other.
    find "$cache/$kind" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d ' ' -f 2- |
      while read -r old; do rm -rf -- "$old"; done
  fi
}

kernel_key=$({ cat "$root/guest/kernel/build.sh"; echo "$ID $VERSION_ID $kernel_package"; } | hash_of)
[ -d "$cache/kernel/$kernel_key" ] || apt_update
artifact kernel "$kernel_key" bash "$root/guest/kernel/build.sh" "$kernel_package"
kernel=$cache/kernel/$kernel_key

make --no-print-directory -s -C "$root/guest/agent" all || fail 'the agent does not build; see its message above.'
guest_key=$({ cat "$root/guest/initramfs/build.sh" "$root/guest/agent/build/agent"; echo "$kernel_key"; version_of crun; } | hash_of)
artifact guest "$guest_key" bash "$root/guest/initramfs/build.sh" "$kernel" "$root/guest/agent/build/agent"

image_key=$({ cat "$root/guest/images/base.sh"; echo "$VERSION_CODENAME"; version_of erofs-utils; } | hash_of)
artifact images "$image_key" as_root bash "$root/guest/images/base.sh" "$VERSION_CODENAME"

cat >"$cache/current.json.new" <<END
{
  "kernel": "$kernel/vmlinux",
  "kernelVersion": "$(cat -- "$kernel/version")",
  "initrd": "$cache/guest/$guest_key/initrd.img",
  "baseImage": "$cache/images/$image_key/base.erofs",
  "qemu": "$(command -v qemu-system-x86_64)"
}
END
mv -- "$cache/current.json.new" "$cache/current.json"
