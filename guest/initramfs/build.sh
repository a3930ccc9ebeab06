#!/usr/bin/env bash
# Packs the initial file system of the microVM: the agent as /init, crun with its libraries, the kernel modules.
#
#   build.sh KERNEL AGENT DIRECTORY
#
# KERNEL is a directory made by ../kernel/build.sh. Leaves `initrd.img` in DIRECTORY: the same input gives the same
# bytes. It is not compressed: unpacking in the guest costs more under software emulation than reading does.
set -euo pipefail

kernel=$1
agent=$2
directory=$3

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
tree=$work/tree
mkdir -p "$tree"/{bin,dev,lib/modules,newroot,proc,run,sys,tmp}

install -m 755 -- "$agent" "$tree/init"

# crun, its libraries and the loader, at their own paths.
crun=$(command -v crun)
install -D -m 755 -- "$crun" "$tree/usr/bin/crun"
ldd "$crun" | grep -o '/[^ ]*' | while read -r library; do
  install -D -m 755 -- "$(readlink -f -- "$library")" "$tree$library"
done

# Modules in the order in which the agent inserts them; what is built into the kernel is not listed.
version=$(cat -- "$kernel/version")
wanted='virtio_mmio virtio_blk virtio_console erofs overlay ext4'
for module in $wanted; do
  /sbin/modprobe -d "$kernel/modules" -S "$version" --show-depends "$module"
done | sed -n 's/^insmod \(\S*\).*$/\1/p' | awk '!seen[$0]++' >"$work/modules"
while read -r path; do
  name=$(basename -- "$path")
  name=${name%%.ko*}.ko
  case "$path" in
    *.ko) cp -- "$path" "$tree/lib/modules/$name" ;;
    *.ko.xz) xz -dc -- "$path" >"$tree/lib/modules/$name" ;;
    *.ko.zst) zstd -dcq -- "$path" >"$tree/lib/modules/$name" ;;
    *.ko.gz) gzip -dc -- "$path" >"$tree/lib/modules/$name" ;;
  esac
  echo "/lib/modules/$name" >>"$tree/lib/modules/load-order"
done <"$work/modules"

cd -- "$tree"
find . -exec touch -h -d @0 {} +
find . | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible -R 0:0 >"$work/initrd.img"
mv -- "$work/initrd.img" "$directory/"
