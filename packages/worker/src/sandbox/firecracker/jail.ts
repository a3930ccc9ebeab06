import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { mkdir, open, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { basename, dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chrootDirectory, JAIL_PATHS, jailerCommand } from './jailer-command.ts';
import type { HeldPath } from './vsock.ts';

/** Names a file without opening it; Node has no name for the flag. */
const O_PATH = 0o10000000;
const LAUNCHER = fileURLToPath(new URL('launch.sh', import.meta.url));
const LOOK_MS = 2;

export interface JailSpec {
  readonly jailer: string;
  readonly execFile: string;
  readonly name: string;
  readonly uid: number;
  /** The driver's own directory; the jail is below it. */
  readonly chrootBase: string;
  readonly cgroup: { readonly version: 1 | 2; readonly path: string; readonly procsFiles: readonly string[] };
}

/** What the VMM sees of the host: pairs of a path outside and inside the jail. */
export interface Furniture {
  /** Files and directories, read-only. */
  readonly binds: readonly (readonly [string, string])[];
  /** Files that it may write where their own mode allows it. */
  readonly writable: readonly (readonly [string, string])[];
  /** How long a file may become that it writes. */
  readonly fileBytes: number;
}

/** The directory that the jailer's layout gives to one sandbox, until it is disposed of. */
export class Jail implements AsyncDisposable {
  /** For files of the sandbox's own, beside the root. */
  readonly directory: string;
  readonly #spec: JailSpec;
  readonly #root: string;
  #child: ChildProcess | null = null;

  private constructor(spec: JailSpec) {
    this.#spec = spec;
    this.#root = chrootDirectory(spec.chrootBase, basename(spec.execFile), spec.name);
    this.directory = dirname(this.#root);
  }

  static async make(spec: JailSpec): Promise<Jail> {
    const jail = new Jail(spec);
    await mkdir(jail.#root, { recursive: true, mode: 0o700 });
    return jail;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }

  /** Starts the jailer, which becomes the VMM. The child lives as long as the VMM does, and ends as it does. */
  launch({ binds, writable, fileBytes }: Furniture): ChildProcess {
    const { uid, cgroup } = this.#spec;
    const command = jailerCommand({
      ...this.#spec,
      cgroupVersion: cgroup.version,
      cgroupPath: cgroup.path,
      fileBytes,
    });
    const lines = (pairs: Furniture['binds']) => pairs.map((pair) => pair.join(':')).join('\n');
    this.#child = spawn(LAUNCHER, ['join', ...command], {
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        JAIL_DAEMON: String(process.pid),
        JAIL_CGROUPS: cgroup.procsFiles.join('\n'),
        JAIL_ROOT: this.#root,
        JAIL_UID: String(uid),
        JAIL_BINDS: lines(binds),
        JAIL_WRITABLE: lines(writable),
        JAIL_FIFOS: [JAIL_PATHS.log, JAIL_PATHS.metrics].map((path) => `.${path}`).join('\n'),
      },
    });
    return this.#child;
  }

  /**
   * A socket of the jail, held so that it can be connected to under a short name. The VMM may put a link in its place, and is never
   * followed: what is opened is the file itself, and must be a socket.
   */
  async socket(path: string): Promise<HeldPath> {
    const handle = await open(this.#seen(path), O_PATH | constants.O_NOFOLLOW);
    if ((await handle.stat()).isSocket()) {
      return { path: `/proc/self/fd/${handle.fd}`, [Symbol.asyncDispose]: () => handle.close() };
    }
    await handle.close();
    throw new Error(`${path} of the jail is no socket`);
  }

  /** The same, waiting until the VMM has made it. `signal` ends the wait. */
  async socketWhenThere(path: string, signal: AbortSignal): Promise<HeldPath> {
    for (;;) {
      signal.throwIfAborted();
      try {
        return await this.socket(path);
      } catch (error) {
        if (!isAbsent(error)) throw error;
      }
      await sleep(LOOK_MS, undefined, { signal });
    }
  }

  /**
   * What the VMM writes to a named pipe of the jail. It never waits for the reader: it writes without blocking, and drops what does not
   * fit. The pipe is opened in both directions, so that it does not end with its writer.
   */
  fifo(path: string): Socket {
    // A number, not a handle: a handle that is collected closes what it opened, and this descriptor becomes the socket's.
    const fd = openSync(this.#seen(path), constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (fstatSync(fd).isFIFO()) return new Socket({ fd, readable: true, writable: false });
    closeSync(fd);
    throw new Error(`${path} of the jail is no named pipe`);
  }

  /** The launcher's mount namespace is where the jail's file system can be seen. */
  #seen(path: string): string {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('the jail is not launched');
    return `/proc/${pid}/root${this.#root}${path}`;
  }
}

/** Not there yet, or not any more. */
function isAbsent(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : '';
  return code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES';
}
