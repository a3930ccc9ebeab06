import { spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import type { SandboxShape } from '../driver.ts';
import type { Artifacts } from '../microvm/artifacts.ts';
import { machineMemoryMiB } from '../microvm/shape.ts';
import { ProcessSandbox } from '../process-sandbox.ts';
import type { UidPool } from '../uid-pool.ts';
import {
  type Accelerator,
  AGENT_FD,
  AGENT_PORT_ID,
  JAIL_PATHS,
  QMP_FD,
  qemuCommand,
  type QemuCommand,
  TRANSLATION_CACHE_MIB,
} from './command.ts';
import { Qmp } from './qmp.ts';

/** QEMU itself, with its cache of translated code. */
export const VMM_OVERHEAD_MIB = 64 + TRANSLATION_CACHE_MIB;
/** QEMU's own threads, beside one for each CPU. */
const VMM_THREADS = 96;

const LAUNCHER = fileURLToPath(new URL('launch.sh', import.meta.url));

export interface LauncherOptions {
  readonly artifacts: Artifacts;
  readonly accelerator: Accelerator;
  /** For what belongs to live sandboxes. */
  readonly runDir: string;
  readonly daemonTag: string;
  readonly uids: UidPool;
  readonly cgroups: CgroupHierarchy;
  readonly tscKhz: number | null;
}

/** What differs between the machines of one daemon. */
export interface Launch {
  /** Names the sandbox on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  readonly drives: QemuCommand['drives'];
  /** A snapshot of the same shape, open for reading, to start from. */
  readonly snapshotFd: number | null;
  /**
   * Puts into the sandbox's own directory what the machine needs there. `binds` are read-only in the jail; what is `shared` may be
   * written by the sandbox's user where the file's own mode allows it.
   */
  readonly furnish: (directory: string, uid: number) => Promise<Furniture>;
}

/** Pairs of a file's path outside and inside the jail. */
export interface Furniture {
  readonly binds: readonly (readonly [string, string])[];
  readonly shared: readonly (readonly [string, string])[];
}

export interface Machine {
  readonly sandbox: ProcessSandbox;
  /** The sandbox's stream, as what it is. */
  readonly agent: Socket;
  readonly qmp: Qmp;
  /** Resolves when a restored machine runs, or when the agent of one that boots has opened its port. Rejects when QEMU ends before. */
  readonly ready: Promise<void>;
  readonly uid: number;
  /** The sandbox's own, gone with it. */
  readonly directory: string;
}

/** Starts QEMU in a jail of its own (`launch.sh`): own user id, namespaces, root, and control group. */
export class QemuLauncher {
  readonly #options: LauncherOptions;

  constructor(options: LauncherOptions) {
    this.#options = options;
  }

  /** The command line of a machine: what a snapshot of its shape depends on, but for the versions of what it names. */
  command(shape: SandboxShape, drives: QemuCommand['drives'], restore: boolean): string[] {
    const { artifacts, accelerator, tscKhz } = this.#options;
    const memoryMiB = machineMemoryMiB(shape.memoryMiB);
    return qemuCommand({ qemu: artifacts.qemu, accelerator, memoryMiB, cpus: shape.cpus, tscKhz, drives, restore });
  }

  /** When it rejects, or `signal` aborts, nothing is left. */
  async launch({ name, shape, drives, snapshotFd, furnish }: Launch, signal: AbortSignal): Promise<Machine> {
    if (!/^\w{1,64}$/.test(name)) throw new RangeError(`${JSON.stringify(name)} cannot name a sandbox`);
    const { artifacts, runDir, daemonTag, uids, cgroups, accelerator } = this.#options;
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid } = scope.use(await uids.take());
    const directory = join(runDir, name);
    const root = join(directory, 'root');
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    await mkdir(root, { recursive: true });
    const { binds, shared } = await furnish(directory, uid);
    const cgroup = await cgroups.create(`${daemonTag}.${name}`);
    scope.defer(() => cgroup.remove());
    await cgroup.limit({
      memoryBytes: (machineMemoryMiB(shape.memoryMiB) + VMM_OVERHEAD_MIB) * 2 ** 20,
      pids: VMM_THREADS + shape.cpus,
      cpus: shape.cpus,
    });
    signal.throwIfAborted();
    const files: Furniture['binds'] = [
      [artifacts.kernel, JAIL_PATHS.kernel],
      [artifacts.initrd, JAIL_PATHS.initrd],
      ...binds,
    ];
    const lines = (pairs: Furniture['binds']) => pairs.map((pair) => pair.join(':')).join('\n');
    const child = spawn(LAUNCHER, ['join', ...this.command(shape, drives, snapshotFd !== null)], {
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', ...(snapshotFd === null ? [] : [snapshotFd])],
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        JAIL_DAEMON: String(process.pid),
        JAIL_ROOT: root,
        JAIL_UID: String(uid),
        JAIL_CGROUPS: cgroup.procsFiles.join('\n'),
        JAIL_BINDS: lines(files),
        JAIL_SHARED: lines(shared),
        JAIL_FSIZE: String(shape.scratchMiB * 2 ** 20),
        JAIL_KVM: accelerator === 'kvm' ? 'yes' : '',
      },
    });
    const agent = child.stdio[AGENT_FD] as Socket;
    const qmp = new Qmp(child.stdio[QMP_FD] as Socket);
    const ready = qmp.event((event, data) =>
      snapshotFd === null
        ? event === 'VSERPORT_CHANGE' && data['id'] === AGENT_PORT_ID && data['open'] === true
        : event === 'RESUME',
    );
    const handle = { version: 1, driver: 'qemu', name } as const;
    const sandbox = new ProcessSandbox({ handle, child, agent, cgroup, owned: scope.move() });
    return { sandbox, agent, qmp, ready, uid, directory };
  }
}
