import { join } from 'node:path';

/** Names inside the jail. Sockets and pipes lie directly below its root, whose own directory the VMM cannot replace. */
export const JAIL_PATHS = {
  apiSocket: '/api.sock',
  vsock: '/vsock.sock',
  log: '/log',
  metrics: '/metrics',
  kernel: '/vm/kernel',
  initrd: '/vm/initrd',
  rootfs: '/vm/rootfs',
  code: '/vm/code',
  scratch: '/vm/scratch',
  /** A directory: files of the host appear in it while the machine lives. */
  drives: '/vm/drives',
  memory: '/vm/memory',
  state: '/vm/state',
} as const;

export interface JailerCommand {
  readonly jailer: string;
  readonly execFile: string;
  /** What a sandbox is called on this host: letters, digits and `_`. */
  readonly name: string;
  readonly uid: number;
  readonly chrootBase: string;
  readonly cgroupVersion: 1 | 2;
  /** The sandbox's group, relative to the hierarchy's root. */
  readonly cgroupPath: string;
  /** How long a file may become that the VMM writes. */
  readonly fileBytes: number;
}

/** Descriptors that a VMM with three drives, one vsock connection and the API needs, several times over. */
const MAX_OPEN_FILES = 256;

/** The jailer takes letters, digits and hyphens, at most 64. A name has no hyphen, so two names never become one. */
export function jailId(name: string): string {
  if (!/^[A-Za-z0-9_]{1,64}$/.test(name)) throw new RangeError(`${JSON.stringify(name)} cannot name a sandbox`);
  return name.replaceAll('_', '-');
}

/** The chroot that the jailer lays out: `<base>/<file name of the VMM>/<id>/root`. */
export function chrootDirectory(chrootBase: string, execFileName: string, name: string): string {
  return join(chrootBase, execFileName, jailId(name), 'root');
}

/**
 * The jailer's command line. What is not there, and why:
 *
 * - `--new-pid-ns`: the jailer would exit, and its child would be nobody's. `launch.sh` starts it as process 1 of a PID namespace of its
 *   own instead, which the jailer's documentation names as the other way; so the VMM's end is seen, and the daemon's death ends the VMM.
 * - `--netns`: `launch.sh` starts it in its network namespace: one with nothing in it, or the gate's, neither of which has a name to be left
 *   behind.
 * - `--cgroup`: it would make a group `<parent>/<id>` below the one that our module limits, meters and kills by, and under version 1 only for
 *   controllers with a value to write. `launch.sh` joins the module's group in every hierarchy before the jailer starts; under version 2
 *   the jailer is told the same group, and joins it again.
 * - `--no-seccomp`: Firecracker's own filter stays on.
 * - `--daemonize`: standard output is the guest's console, and goes to the daemon's ring.
 */
export function jailerCommand(command: JailerCommand): string[] {
  const { jailer, execFile, name, uid, chrootBase, cgroupVersion, cgroupPath, fileBytes } = command;
  return [
    jailer,
    ['--id', jailId(name)],
    ['--exec-file', execFile],
    ['--uid', String(uid), '--gid', String(uid)],
    ['--chroot-base-dir', chrootBase],
    ['--cgroup-version', String(cgroupVersion)],
    cgroupVersion === 2 ? ['--parent-cgroup', cgroupPath] : [],
    ['--resource-limit', `fsize=${fileBytes}`],
    ['--resource-limit', `no-file=${MAX_OPEN_FILES}`],
    ['--', '--api-sock', JAIL_PATHS.apiSocket],
    // From its first line on: before the API could say so, it would write to the guest's console.
    ['--log-path', JAIL_PATHS.log, '--level', 'Warning', '--show-level'],
  ].flat();
}
