#!/usr/bin/env bash
# Packs what a microVM boots: the kernel, and the initial file system with the agent as /init, crun and the kernel's modules.
#
#   build.sh KERNEL AGENT DIRECTORY
#
# KERNEL is a directory made by ../kernel/build.sh or ../kernel/tuned/build.sh, AGENT the agent's program. Leaves `vmlinux`, `initrd.img` and `manifest.json`
# in DIRECTORY; the same input gives the same bytes. In the initial file system:
#   /lib/modules/load-order         absolute paths of modules, one a line, dependencies first: the agent inserts them in this order
#   /lib/modules/load-order.vsock   the same for vsock; nobody inserts them on a machine with a virtio-serial port
#   /lib/modules/load-order.net     the same for a network card, on a machine that has one
# Neither is there for a kernel without modules.
#
# Needs no root.
set -euo pipefail
export LC_ALL=C
umask 022

kernel=$1
agent=$2
directory=$(cd -- "$3" && pwd)

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

modules=''
if [ -d "$kernel/modules" ]; then
  install -m 644 -t "$tree/lib/modules" -- "$kernel"/modules/*.ko
  for list in load-order load-order.vsock load-order.net; do
    sed 's|^|/lib/modules/|' "$kernel/$list" >"$tree/lib/modules/$list"
  done
  modules=$(sed 's/.*/"&"/' "$kernel/load-order" | paste -sd ,)
fi

cd -- "$tree"
find . -exec touch -h -d @0 {} +
find . | sort | cpio --quiet -o -H newc --reproducible -R 0:0 >"$directory/initrd.img"

cd -- "$directory"
# A link where the cache is one file system: the kernel is 50 MB.
ln -- "$kernel/vmlinux" vmlinux 2>/dev/null || cp -- "$kernel/vmlinux" vmlinux
cat >manifest.json <<JSON
{
  "kernelVersion": "$(cat -- "$kernel/release")",
  "crunVersion": "$(crun --version | sed -n '1s/^crun version //p')",
  "modules": [$modules],
  "sha256": {
    "vmlinux": "$(sha256sum <vmlinux | cut -c 1-64)",
    "initrd.img": "$(sha256sum <initrd.img | cut -c 1-64)",
    "init": "$(sha256sum <"$tree/init" | cut -c 1-64)"
  }
}
JSON
