#!/bin/sh
# Starts one Firecracker under its jailer: launch.sh STAGE JAILER [ARGUMENT...]
#
# It is started by the daemon as root, with these in the environment:
#   JAIL_DAEMON   the daemon's process id
#   JAIL_CGROUPS  files to write the process id to, one a line
#   JAIL_ROOT     the directory that the jailer will make the root: `<base>/<file name of the VMM>/<id>/root`
#   JAIL_UID      the user and group id that the VMM gets
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
set -eu
newline='
'

stage=$1
shift
case $stage in
join)
	IFS=$newline
	for file in $JAIL_CGROUPS; do echo $$ >"$file"; done
	exec setpriv --pdeathsig KILL -- "$0" isolate "$@"
	;;
isolate)
	# The daemon may have died before the signal was set.
	[ "$PPID" = "$JAIL_DAEMON" ] || exit 70
	exec unshare --mount --net --ipc --uts --pid --fork --kill-child=KILL -- "$0" enter "$@"
	;;
enter) ;;
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
