#!/usr/bin/env bash
# Takes a guest kernel out of a Debian or Ubuntu package, without installing it.
#
#   build.sh PACKAGE DIRECTORY
#
# PACKAGE is the name that always means the newest (linux-image-cloud-amd64). Leaves in DIRECTORY: `vmlinux` (an ELF: booting it is
# faster than decompressing in the guest), `version`, and `modules/lib/modules/VERSION` with its dependency files.
set -euo pipefail

package=$1
directory=$2

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
# apt drops to its own user for the download, which must be able to write there.
chmod 755 "$work"
if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$work"; fi

concrete() {
  apt-cache depends "$1" | sed -n "s/^ *Depends: \($2-[0-9].*\)$/\1/p" | head -n 1
}

image=$(concrete "$package" linux-image)
[ -n "$image" ] || { echo "no kernel package stands behind $package"; exit 1; }
version=${image#linux-image-}
version=${version#unsigned-}

cd -- "$work"
apt-get download "$image"
# Ubuntu keeps the modules in a package of their own.
if apt-cache show "linux-modules-$version" >/dev/null 2>&1; then apt-get download "linux-modules-$version"; fi
for deb in ./*.deb; do dpkg-deb -x "$deb" tree; done

# The kernel image is a small program with the real kernel packed inside: find the packer's magic, unpack, see an ELF.
unpack() {
  local magic=$1 unpacker=$2 offset
  while IFS=: read -r offset _; do
    tail -c "+$((offset + 1))" "tree/boot/vmlinuz-$version" | $unpacker >vmlinux 2>/dev/null || true
    if [ "$(head -c 4 vmlinux | od -An -tx1 | tr -d ' \n')" = 7f454c46 ]; then return 0; fi
  done < <(LC_ALL=C grep -obUaP -- "$magic" "tree/boot/vmlinuz-$version")
  return 1
}
unpack '\x02\x21\x4c\x18' 'lz4 -dc' || unpack '\x28\xb5\x2f\xfd' 'zstd -dc' || unpack '\xfd7zXZ\x00' 'xz -dc' ||
  unpack '\x1f\x8b\x08' 'gzip -dc' || { echo "the kernel inside vmlinuz-$version was not found"; exit 1; }

mkdir -p modules/lib
[ ! -d tree/usr/lib/modules ] || mv tree/usr/lib/modules modules/lib/modules
[ ! -d tree/lib/modules ] || mv tree/lib/modules modules/lib/modules
# The dependency files are made when the package is installed, which it never is here.
/sbin/depmod -b modules "$version"

echo "$version" >"$directory/version"
mv -- vmlinux modules "$directory/"
