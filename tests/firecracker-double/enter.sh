# The last steps of the jailer's double, in a mount namespace of its own: enter.sh PROGRAM [ARGUMENT...]
#
# In the environment: ROOT, IDS (UID:GID), FSIZE, NOFILE, NEW_PID_NS, DAEMONIZE as the flags say, and for the double's own needs CHECKOUT,
# NODE and DESCRIPTION.
set -eu

mount --rbind -- "$ROOT" "$ROOT"
cd "$ROOT"

# --- What only the double needs.
bind() { # SOURCE TARGET
	mount --bind -- "$1" "$ROOT$2"
	mount -o remount,bind,ro,nosuid,nodev -- "$ROOT$2"
}
mkdir -p usr etc double/node_modules/yaml
bind /usr /usr
for name in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$name"; fi
done
: >etc/ld.so.cache && bind /etc/ld.so.cache /etc/ld.so.cache
: >double/node && bind "$NODE" /double/node
: >double/api.yaml && bind "$DESCRIPTION" /double/api.yaml
bind "$CHECKOUT/node_modules/yaml" /double/node_modules/yaml
for file in "$CHECKOUT"/tests/firecracker-double/*.ts; do
	: >"double/${file##*/}" && bind "$file" "/double/${file##*/}"
done

# --- What the jailer does.
mkdir old_root proc
# `umount` looks mounts up in /proc.
mount -t proc -o nosuid,nodev,noexec proc proc
pivot_root . old_root
cd /
umount --lazy --no-mtab /old_root
rmdir /old_root
uid=${IDS%:*} gid=${IDS#*:}
for directory in / /dev /dev/net /run; do
	mkdir -p "$directory"
	chmod 700 "$directory"
	chown "$uid:$gid" "$directory"
done
node() { # PATH MAJOR MINOR
	mknod -m 600 "$1" c "$2" "$3"
	chown "$uid:$gid" "$1"
}
node /dev/net/tun 10 200
node /dev/kvm 10 232
node /dev/urandom 1 9
# Node and QEMU look for these; Firecracker does not.
for name in null:3 zero:5 random:8; do
	mknod -m 666 "/dev/${name%:*}" c 1 "${name#*:}"
done
umount --no-mtab /proc
rmdir /proc

program=$1
shift
set -- prlimit --fsize="$FSIZE" --nofile="$NOFILE" -- setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$program" "$@"
if [ -n "$DAEMONIZE" ]; then set -- setsid --fork sh -c 'exec "$@" </dev/null >/dev/null 2>&1' sh "$@"; fi
if [ -n "$NEW_PID_NS" ]; then
	# The next child is process 1 of the new namespace; this one says which it is, and ends.
	exec env -i PATH="$PATH" PID_FILE="$program.pid" unshare --pid -- sh -c '"$@" & echo -n $! >"$PID_FILE"' sh "$@"
fi
echo -n $$ >"$program.pid"
exec env -i PATH="$PATH" "$@"
