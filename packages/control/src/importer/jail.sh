#!/bin/sh
# Starts the inside of one import in its own jail: jail.sh STAGE
#
# It is started by the control server in the import's directory, as root or as an ordinary user, and has these in the environment:
#   JAIL_PARENT   the control server's process id
#   JAIL_IDS      as root: the first of the 65,536 host ids that the inside gets; empty for an ordinary user, whose ids the control server maps
#   JAIL_NODE     the program that runs the inside
#   JAIL_INSIDE   the directory of the inside's source
#   JAIL_CA       empty, or a file of further certificate authorities
#   JAIL_LAYERS   the directory of layers that were pulled before
#   JAIL_FSIZE    how long a file may become, in bytes
#
# On standard output it says `map` when it waits for the control server to write its id map; a line on standard input lets it go on.
# Then standard input and output are the inside's.
#
# Death of the control server, however it dies, ends all: the kernel kills `unshare` with it, and process 1 of the PID namespace with
# `unshare`. A signal set for the parent's death is lost when ids or privileges change, so the last stage sets it again, after the change.
# And process 1 ends when its standard input does.
set -eu

self=$JAIL_INSIDE/../jail.sh
isolate='unshare --mount --net --ipc --uts --pid --fork --kill-child=KILL'

wait_for_map() {
	echo map
	read -r _ || exit 70
}

case $1 in
start)
	# The control server may have died before the signal was set.
	[ "$PPID" = "$JAIL_PARENT" ] || exit 70
	if [ -n "$JAIL_IDS" ]; then exec $isolate -- sh "$self" enter; fi
	exec unshare --user -- sh "$self" mapped
	;;
remove)
	# Of an ordinary user: removes the directory `$2`, whose files have ids of the map.
	[ "$PPID" = "$JAIL_PARENT" ] || exit 70
	exec unshare --user -- sh "$self" mapped-remove "$2"
	;;
mapped)
	wait_for_map
	exec $isolate -- sh "$self" enter
	;;
mapped-remove)
	wait_for_map
	exec rm -rf --one-file-system -- "$2"
	;;
enter) ;;
*)
	echo "jail.sh: no stage $1" >&2
	exit 64
	;;
esac

root=$PWD/root

bind() { # SOURCE TARGET OPTIONS
	if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
	mount --bind -- "$1" "$root$2"
	mount -o "remount,bind,nosuid,nodev,$3" -- "$root$2"
}

ip link set lo up
mount -t tmpfs -o size=1m,nosuid,mode=755 importer "$root"
mkdir -p "$root/dev" "$root/etc/ssl" "$root/etc/containers" "$root/old" "$root/proc" "$root/tmp"
bind /usr /usr ro
for name in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$name" ]; then
		ln -s "$(readlink "/$name")" "$root/$name"
	elif [ -d "/$name" ]; then
		bind "/$name" "/$name" ro
	fi
done
if [ -e /etc/ld.so.cache ]; then bind /etc/ld.so.cache /etc/ld.so.cache ro,noexec; fi
if [ -d /etc/ssl/certs ]; then bind /etc/ssl/certs /etc/ssl/certs ro,noexec; fi
if [ -n "$JAIL_CA" ]; then bind "$JAIL_CA" /etc/ssl/authorities.pem ro,noexec; fi
for name in null zero urandom; do
	touch "$root/dev/$name"
	mount --bind "/dev/$name" "$root/dev/$name"
done
echo '127.0.0.1 localhost' >"$root/etc/hosts"
echo 'unqualified-search-registries = []' >"$root/etc/containers/registries.conf"
bind "$JAIL_NODE" /node ro
bind "$JAIL_INSIDE" /inside ro,noexec
bind "$JAIL_LAYERS" /layers ro,noexec
bind . /work rw,noexec
mount -t tmpfs -o size=16m,nosuid,nodev,noexec,mode=1777 importer "$root/tmp"
ids=$JAIL_IDS node=$JAIL_NODE fsize=$JAIL_FSIZE
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
# A registry on a low port of the loopback.
echo 0 >proc/sys/net/ipv4/ip_unprivileged_port_start || true
pivot_root . old
umount --lazy --no-mtab /old
mount --no-mtab -o remount,bind,ro,nosuid,nodev,noexec /proc
mount --no-mtab -o remount,ro,nosuid,mode=755 importer /
cd /work

# Of root's powers the inside keeps, over the files of its ids and its own processes: to give files away, to read and write them, to be another of its ids.
inside='setpriv --pdeathsig KILL --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+setuid,+setgid,+kill --'
limits="prlimit --core=0 --fsize=$fsize --nofile=1024 --"
set -- /node --disable-warning=ExperimentalWarning --max-old-space-size=512 /inside/main.ts
if [ -z "$ids" ]; then
	exec env -i PATH=/usr/sbin:/usr/bin HOME=/tmp $limits $inside "$@"
fi
exec env -i PATH=/usr/sbin:/usr/bin HOME=/tmp $limits \
	setpriv --reuid "$ids" --regid "$ids" --clear-groups --pdeathsig KILL -- \
	unshare --user -- sh -c "echo map; read -r _ || exit 70; exec $inside \"\$@\"" sh "$@"
