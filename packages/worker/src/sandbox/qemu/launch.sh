#!/bin/sh
# Starts one QEMU in its own jail: launch.sh STAGE QEMU [ARGUMENT...]
#
# It is started by the daemon as root, hands the descriptors from 5 on to QEMU, and has these in the environment:
#   JAIL_DAEMON   the daemon's process id
#   JAIL_LEASH    not empty: the sandbox may come to outlive the daemon, see below; the daemon's name for all of its lives
#   JAIL_ROOT     an empty directory
#   JAIL_UID      the user and group id that QEMU gets
#   JAIL_CGROUPS  files to write the process id to, one a line
#   JAIL_BINDS    SOURCE:TARGET, one a line: files that QEMU sees, read-only
#   JAIL_SHARED   SOURCE:TARGET, one a line: files and directories in which it may write what its user may write, and
#   JAIL_FSIZE    how long a file may become, in bytes
#   JAIL_OWN      a directory in memory that QEMU has to itself
#   JAIL_NETWORK  not empty: the network namespace that has the tap of its network card, instead of an empty one
#   JAIL_KVM      not empty: QEMU gets /dev/kvm
#
# Death of the daemon, however it dies, ends QEMU: the kernel kills `unshare` with the daemon, and the process 1 of the
# PID namespace with `unshare`. A signal set for the parent's death is lost when the user id changes, so the
# last stage sets it again, after the change.
#
# With a leash, that `unshare` is killed by a process of its own that waits for the end of descriptor 3, which the daemon holds. When
# `keep` came before, it goes on to look whether a daemon of that name lives, and kills when there was none for 30 s. Descriptor 4
# holds the user id for as long as that `unshare` lives.
set -eu
newline='
'

stage=$1
shift
case $stage in
join)
	IFS=$newline
	for file in $JAIL_CGROUPS; do echo $$ >"$file"; done
	[ -z "$JAIL_LEASH" ] || exec "$0" isolate "$@"
	exec setpriv --pdeathsig KILL -- "$0" isolate "$@"
	;;
isolate)
	if [ -n "$JAIL_LEASH" ]; then
		setpriv --pdeathsig KILL -- "$0" leash $$ <&3 3<&- 4<&- 5<&- 6<&- >/dev/null 2>&1 &
		exec 3<&-
	else
		# The daemon may have died before the signal was set.
		[ "$PPID" = "$JAIL_DAEMON" ] || exit 70
	fi
	if [ -n "$JAIL_NETWORK" ]; then
		exec nsenter --net="$JAIL_NETWORK" -- unshare --mount --ipc --uts --pid --fork --kill-child=KILL -- "$0" enter "$@"
	fi
	exec unshare --mount --net --ipc --uts --pid --fork --kill-child=KILL -- "$0" enter "$@"
	;;
leash)
	read -r word || word=
	if [ "$word" = keep ]; then
		# The guest ends itself after 20 s without a daemon, if it can be believed.
		read -r word || :
		without=0
		while [ "$without" -lt 30 ]; do
			sleep 5
			if grep -q "@cocore/daemon/$JAIL_LEASH\$" /proc/net/unix; then without=0; else without=$((without + 5)); fi
		done
	fi
	kill -KILL "$1"
	exit 0
	;;
enter) exec 3<&- 4<&- ;;
*)
	echo "launch.sh: no stage $stage" >&2
	exit 64
	;;
esac

bind() { # SOURCE TARGET OPTIONS
	if [ -d "$1" ]; then mkdir -p "$JAIL_ROOT$2"; else touch "$JAIL_ROOT$2"; fi
	mount --bind -- "$1" "$JAIL_ROOT$2"
	mount -o "remount,bind,nosuid,nodev,$3" -- "$JAIL_ROOT$2"
}

mount -t tmpfs -o size=1m,nosuid,mode=755 jail "$JAIL_ROOT"
mkdir -p "$JAIL_ROOT/dev" "$JAIL_ROOT/etc" "$JAIL_ROOT/vm/drives" "$JAIL_ROOT/old" "$JAIL_ROOT/proc"
bind /usr /usr ro
for name in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$name" ]; then
		ln -s "$(readlink "/$name")" "$JAIL_ROOT/$name"
	elif [ -d "/$name" ]; then
		bind "/$name" "/$name" ro
	fi
done
bind /etc/ld.so.cache /etc/ld.so.cache ro,noexec
for name in null zero urandom; do
	touch "$JAIL_ROOT/dev/$name"
	mount --bind "/dev/$name" "$JAIL_ROOT/dev/$name"
	mount -o remount,bind,nosuid,noexec "$JAIL_ROOT/dev/$name"
done
IFS=$newline
for pair in $JAIL_BINDS; do bind "${pair%:*}" "${pair##*:}" ro,noexec; done
for pair in $JAIL_SHARED; do bind "${pair%:*}" "${pair##*:}" rw,noexec; done
mkdir "$JAIL_ROOT$JAIL_OWN"
mount -t tmpfs -o "size=4k,nr_inodes=8,nosuid,nodev,noexec,mode=700,uid=$JAIL_UID,gid=$JAIL_UID" own "$JAIL_ROOT$JAIL_OWN"
if [ -n "$JAIL_KVM" ]; then
	mknod -m 600 "$JAIL_ROOT/dev/kvm" c 10 232
	chown "$JAIL_UID:$JAIL_UID" "$JAIL_ROOT/dev/kvm"
fi

if [ -n "$JAIL_NETWORK" ]; then
	mkdir "$JAIL_ROOT/dev/net"
	mknod -m 666 "$JAIL_ROOT/dev/net/tun" c 10 200
fi

uid=$JAIL_UID fsize=$JAIL_FSIZE
cd "$JAIL_ROOT"
# `umount` looks mounts up in /proc, so there is one until the end of the stage.
mount -t proc -o nosuid,nodev,noexec proc proc
pivot_root . old
umount --lazy --no-mtab /old
mount --no-mtab -o remount,ro,nosuid,mode=755 jail /
umount --no-mtab /proc
exec env -i PATH=/usr/bin \
	prlimit --core=0 --fsize="$fsize" --nofile=256 -- \
	setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs \
	--bounding-set=-all --inh-caps=-all --ambient-caps=-all --pdeathsig KILL -- "$@"
