#!/bin/sh
# Starts one Firecracker under its jailer: launch.sh STAGE JAILER [ARGUMENT...]
#
# It is started by the daemon as root, with these in the environment:
#   JAIL_DAEMON   the daemon's process id
#   JAIL_LEASH    not empty: the sandbox may come to outlive the daemon, see below; the daemon's name for all of its lives
#   JAIL_CGROUPS  files to write the process id to, one a line
#   JAIL_ROOT     the directory that the jailer will make the root: `<base>/<file name of the VMM>/<id>/root`
#   JAIL_UID      the user and group id that the VMM gets
#   JAIL_NETWORK  not empty: the network namespace that has the tap of its network card, instead of an empty one
#   JAIL_BINDS    SOURCE:TARGET, one a line: files and directories that the VMM sees, read-only
#   JAIL_WRITABLE SOURCE:TARGET, one a line: the only files outside of the jail's own memory that it may write
#   JAIL_FIFOS    named pipes for it to write to, below the root, one a line
#
# The jail's root is a small memory file system in a mount namespace of the sandbox's own: what the VMM leaves there is bounded, charged
# to its control group, and gone with its last process. The daemon reaches it through /proc/PID/root.
#
# Death of the daemon, however it dies, ends the VMM: the kernel kills the first `unshare` with the daemon, the second with the first, and
# with the second, which is process 1 of a PID namespace, all that is in there. (A signal set for the parent's death
# would be lost when the jailer changes the user id; both `unshare`s stay root.) The VMM itself is process 1 of the inner namespace.
#
# With a leash, the first `unshare` is killed by a process of its own that waits for the end of descriptor 3, which the daemon holds. When
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
		setpriv --pdeathsig KILL -- "$0" leash $$ <&3 3<&- 4<&- >/dev/null 2>&1 &
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
enter) [ -z "$JAIL_LEASH" ] || exec 4<&- ;;
*)
	echo "launch.sh: no stage $stage" >&2
	exit 64
	;;
esac

bind() { # SOURCE TARGET OPTIONS
	if ! [ -e "$1" ]; then
		echo "launch.sh: $1 is not there" >&2
		exit 66
	fi
	if [ -d "$1" ]; then mkdir "$JAIL_ROOT$2"; else : >"$JAIL_ROOT$2"; fi
	mount -o "bind,nosuid,nodev,noexec,$3" -- "$1" "$JAIL_ROOT$2"
}

# The VMM's program is copied in, a few MB; it is the only thing that may be large.
mount -t tmpfs -o size=16m,nr_inodes=256,nosuid,mode=700 jail "$JAIL_ROOT"
mkdir "$JAIL_ROOT/vm"
IFS=$newline
for pair in $JAIL_BINDS; do bind "${pair%:*}" "${pair##*:}" ro; done
for pair in $JAIL_WRITABLE; do bind "${pair%:*}" "${pair##*:}" rw; done
cd "$JAIL_ROOT"
mkfifo -m 600 -- $JAIL_FIFOS
chown "$JAIL_UID:$JAIL_UID" -- $JAIL_FIFOS
cd /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --pid --fork --kill-child=KILL -- "$@"
