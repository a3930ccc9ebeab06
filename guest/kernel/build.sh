#!/usr/bin/env bash
# Takes a guest kernel out of a Debian or Ubuntu package, without installing it.
#
#   build.sh --resolve PACKAGE          prints `IMAGE VERSION`, what PACKAGE (linux-image-cloud-amd64) means now; nothing when apt does not know
#   build.sh IMAGE VERSION DIRECTORY    leaves in DIRECTORY:
#     vmlinux            an ELF: booting it is faster than decompressing in the guest
#     release            what `uname -r` says in the guest
#     modules/*.ko       what the guest needs and the kernel does not have built in
#     load-order         their file names, dependencies first
#     load-order.vsock   the same for vsock, which not every machine has
#     load-order.net     the same for a network card, likewise
#
# Needs no root.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

if [ "$1" = --resolve ]; then
  image=$(apt-cache depends "$2" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | sed -n 1p)
  [ -n "$image" ] || exit 0
  version=$(apt-cache policy "$image" | sed -n 's/^ *Candidate: //p')
  echo "$image $version"
  exit 0
fi

image=$1
version=$2
directory=$(cd -- "$3" && pwd)
release=${image#linux-image-}

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
# Under root apt downloads as a user of its own, which must be able to write there.
chmod 755 "$work"
if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$work"; fi

cd -- "$work"
apt-get download "$image=$version"
# Ubuntu keeps the modules in packages of their own.
for package in "linux-modules-$release" "linux-modules-extra-$release"; do
  if apt-cache show "$package" >/dev/null 2>&1; then apt-get download "$package"; fi
done
for deb in ./*.deb; do dpkg-deb -x "$deb" tree; done

# --- The kernel

# The kernel image is a small program with the real kernel packed inside: find the packer's magic, unpack, see an ELF.
is_elf() {
  [ "$(head -c 4 "$1" | od -An -tx1 | tr -d ' \n')" = 7f454c46 ]
}

unpack() {
  local magic=$1 offset
  shift
  while IFS=: read -r offset _; do
    # What follows the packed kernel is no part of it, and makes the unpacker fail at its end.
    tail -c "+$((offset + 1))" "$packed" | "$@" >vmlinux 2>/dev/null || true
    if is_elf vmlinux; then return 0; fi
  done < <(grep -obUaP -- "$magic" "$packed")
  return 1
}

packed=tree/boot/vmlinuz-$release
unpack '\x02\x21\x4c\x18' lz4 -dc || unpack '\x28\xb5\x2f\xfd' zstd -dc || unpack '\xfd7zXZ\x00' xz -dc || unpack '\x1f\x8b\x08' gzip -dc ||
  fail "the kernel inside vmlinuz-$release was not found"

# --- Its modules

mkdir -p modules/lib
for place in tree/usr/lib/modules tree/lib/modules; do
  if [ -d "$place" ]; then mv -- "$place" modules/lib/modules; fi
done
# The dependency file is made when the package is installed, which it never is here.
depmod -b modules "$release"
modules=$work/modules/lib/modules/$release

# Prints the modules' paths in load order. A name that ends in `?` may be missing. Soft dependencies are not followed: they would
# add crc32c-intel, which only repeats crc32c_generic, and which a CPU without its instruction refuses to load.
load_order() {
  awk -v wanted="$*" '
    function name_of(path) { sub(/^.*\//, "", path); sub(/\.ko.*$/, "", path); gsub(/-/, "_", path); return path }
    function load(path, count, i, parts) {
      if (loaded[path]++) return
      count = split(needs[path], parts, " ")
      for (i = count; i > 0; i--) load(parts[i])
      print path
    }
    FILENAME ~ /builtin$/ { builtin[name_of($1)] = 1; next }
    { path = $1; sub(/:$/, "", path); file[name_of(path)] = path; $1 = ""; needs[path] = $0 }
    END {
      count = split(wanted, names, " ")
      for (i = 1; i <= count; i++) {
        name = names[i]
        optional = sub(/\?$/, "", name)
        if (name in file) load(file[name])
        else if (!(name in builtin) && !optional) { print "the kernel has no module " name > "/dev/stderr"; exit 1 }
      }
    }' "$modules/modules.builtin" "$modules/modules.dep"
}

# Puts the modules of a list beside the kernel, unpacked, and writes the list of their names.
take() {
  local list=$1 path name
  while read -r path; do
    name=${path##*/}
    name=${name%%.ko*}.ko
    case "$path" in
      *.ko) cat -- "$modules/$path" ;;
      *.ko.xz) xz -dc -- "$modules/$path" ;;
      *.ko.zst) zstd -dcq -- "$modules/$path" ;;
      *.ko.gz) gzip -dc -- "$modules/$path" ;;
      *) fail "the module $path is packed in a way that is not known here" ;;
    esac >"$directory/modules/$name"
    echo "$name"
  done >"$directory/$list"
}

mkdir -- "$directory/modules"
load_order virtio_mmio virtio_blk virtio_console 'crc32c_generic?' erofs overlay ext4 >boot
load_order virtio_mmio vsock vmw_vsock_virtio_transport >vsock
load_order virtio_mmio virtio_net >net
take load-order <boot
{ grep -vxFf boot vsock || true; } | take load-order.vsock
{ grep -vxFf boot net || true; } | take load-order.net

echo "$release" >"$directory/release"
mv -- vmlinux "$directory/"
