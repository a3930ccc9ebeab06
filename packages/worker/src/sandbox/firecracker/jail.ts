import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { basename, dirname } from 'node:path';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { ProcessMark } from '../../host/process.ts';
import { type HeldPath, SandboxView } from '../microvm/sandbox-view.ts';
import { chrootDirectory, JAIL_PATHS, jailerCommand } from './jailer-command.ts';

const LAUNCHER = fileURLToPath(new URL('launch.sh', import.meta.url));
const LEASH_FD = 3;

/** Where a jail is. */
export interface JailPlace {
  readonly execFile: string;
  readonly name: string;
  /** The driver's own directory; the jail is below it. */
  readonly chrootBase: string;
}

export interface JailSpec extends JailPlace {
  readonly jailer: string;
  readonly uid: number;
  /** The network namespace that has the tap of its network card, as a file; null for an empty one. */
  readonly networkPath: string | null;
  readonly cgroup: { readonly version: 1 | 2; readonly path: string; readonly procsFiles: readonly string[] };
  /** When the sandbox may come to outlive the daemon: the descriptor that holds the user id, and the daemon's name for all of its lives. */
  readonly leash: { readonly lockFd: number; readonly daemonTag: string } | null;
}

/** The launcher's first process in a jail that runs, and what ties it to the daemon. */
export interface Launched {
  /** It lives as long as the VMM does, and ends as it does. */
  readonly child: ChildProcess;
  readonly leash: Writable | null;
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
  readonly #root: string;
  #view: SandboxView | null = null;

  private constructor(place: JailPlace) {
    this.#root = jailRoot(place);
    this.directory = dirname(this.#root);
  }

  static async make(place: JailPlace): Promise<Jail> {
    const jail = new Jail(place);
    await mkdir(jail.#root, { recursive: true, mode: 0o700 });
    return jail;
  }

  /** That of a process which an earlier life of the daemon started. @throws Error when the process is gone */
  static async find(place: JailPlace, mark: ProcessMark): Promise<Jail> {
    const jail = new Jail(place);
    jail.#view = await SandboxView.ofFound(mark);
    return jail;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#view?.[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true, force: true });
  }

  /** Starts the jailer, which becomes the VMM. */
  launch(spec: JailSpec, { binds, writable, fileBytes }: Furniture): Launched {
    const { uid, cgroup, leash, networkPath } = spec;
    const command = jailerCommand({
      ...spec,
      cgroupVersion: cgroup.version,
      cgroupPath: cgroup.path,
      fileBytes,
    });
    const lines = (pairs: Furniture['binds']) => pairs.map((pair) => pair.join(':')).join('\n');
    const child = spawn(LAUNCHER, ['join', ...command], {
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe', ...(leash === null ? [] : (['pipe', leash.lockFd] as const))],
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        JAIL_DAEMON: String(process.pid),
        JAIL_LEASH: leash?.daemonTag ?? '',
        JAIL_CGROUPS: cgroup.procsFiles.join('\n'),
        JAIL_ROOT: this.#root,
        JAIL_UID: String(uid),
        JAIL_NETWORK: networkPath ?? '',
        JAIL_BINDS: lines(binds),
        JAIL_WRITABLE: lines(writable),
        JAIL_FIFOS: [JAIL_PATHS.log, JAIL_PATHS.metrics].map((path) => `.${path}`).join('\n'),
      },
    });
    if (child.pid !== undefined) this.#view = SandboxView.ofChild(child.pid);
    return { child, leash: leash === null ? null : (child.stdio[LEASH_FD] as Writable) };
  }

  /** A socket of the jail, as in `SandboxView`. */
  socketWhenThere(path: string, signal: AbortSignal): Promise<HeldPath> {
    return this.#seen.socketWhenThere(`${this.#root}${path}`, signal);
  }

  /**
   * What the VMM writes to a named pipe of the jail. It never waits for the reader: it writes without blocking, and drops what does not fit.
   */
  fifo(path: string): Socket {
    return this.#seen.fifo(`${this.#root}${path}`);
  }

  /** The launcher's mount namespace is where the jail's file system can be seen. */
  get #seen(): SandboxView {
    if (this.#view === null) throw new Error('the jail is not launched');
    return this.#view;
  }
}

const jailRoot = ({ chrootBase, execFile, name }: JailPlace) => chrootDirectory(chrootBase, basename(execFile), name);

/** A jail's own directory below the driver's. @throws RangeError when the name can be no sandbox's */
export const jailDirectory = (place: JailPlace): string => dirname(jailRoot(place));
