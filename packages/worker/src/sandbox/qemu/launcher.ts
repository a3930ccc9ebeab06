import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { GATE_PROCESSES, type SandboxHandle, type SandboxNetwork, type SandboxShape } from '../driver.ts';
import type { Artifacts } from '../microvm/artifacts.ts';
import { GuestStream } from '../microvm/guest-stream.ts';
import { SandboxView } from '../microvm/sandbox-view.ts';
import { machineMemoryMiB } from '../microvm/shape.ts';
import { findOutliving } from '../outliving.ts';
import { ProcessSandbox } from '../process-sandbox.ts';
import type { UidPool } from '../uid-pool.ts';
import {
  type Accelerator,
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

const LEASH_FD = 3;
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
  /** Whether its sandboxes can be made to outlive the daemon. */
  readonly recover: boolean;
  readonly bootDeadlineMs: number;
}

/** What differs between the machines of one daemon. */
export interface Launch {
  /** Names the sandbox on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  readonly drives: QemuCommand['drives'];
  /** A snapshot of the same shape, open for reading, to start from. */
  readonly snapshotFd: number | null;
  readonly network: SandboxNetwork | null;
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
  readonly agent: GuestStream;
  readonly qmp: Qmp;
  /** Resolves when a restored machine runs, or when the agent of one that boots has opened its port. Rejects when QEMU ends before. */
  readonly ready: Promise<void>;
  readonly uid: number;
  /** The sandbox's own, gone with it. */
  readonly directory: string;
}

/** When to speak on a new connection to the agent's port, and how long to bear the agent's silence. */
interface Manner {
  readonly settleMs: number;
  readonly patienceMs?: number;
}

/** QEMU waits for this one before it makes the machine: the guest knows of no time without it. */
const FIRST: Manner = { settleMs: 0 };
/** The guest is told of a later one beside what comes over it, in no order, and loses what comes too early. */
const LATER: Manner = { settleMs: 100, patienceMs: 2_000 };

/** Starts QEMU in a jail of its own (`launch.sh`): own user id, namespaces, root, and control group. */
export class QemuLauncher {
  readonly #options: LauncherOptions;

  constructor(options: LauncherOptions) {
    this.#options = options;
  }

  /** The command line of a machine: what a snapshot of its shape depends on, but for the versions of what it names. */
  command(
    shape: SandboxShape,
    { drives, hasNetwork, restore }: Pick<QemuCommand, 'drives' | 'hasNetwork' | 'restore'>,
  ): string[] {
    const { artifacts, accelerator, tscKhz } = this.#options;
    const memoryMiB = machineMemoryMiB(shape.memoryMiB);
    const machine = { qemu: artifacts.qemu, accelerator, memoryMiB, cpus: shape.cpus, tscKhz };
    return qemuCommand({ ...machine, drives, hasNetwork, restore });
  }

  /** When it rejects, or `signal` aborts, nothing is left. */
  async launch({ name, shape, drives, snapshotFd, furnish, network }: Launch, signal: AbortSignal): Promise<Machine> {
    if (!/^\w{1,64}$/.test(name)) throw new RangeError(`${JSON.stringify(name)} cannot name a sandbox`);
    const { artifacts, runDir, daemonTag, uids, cgroups, accelerator, recover } = this.#options;
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid, lockFd } = scope.use(await uids.take());
    const directory = sandboxDirectory(runDir, name);
    const root = join(directory, 'root');
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    await mkdir(root, { recursive: true });
    const { binds, shared } = await furnish(directory, uid);
    const cgroup = await cgroups.create(`${daemonTag}.${name}`);
    scope.defer(() => cgroup.remove());
    await cgroup.limit({
      memoryBytes: (machineMemoryMiB(shape.memoryMiB) + VMM_OVERHEAD_MIB) * 2 ** 20,
      pids: VMM_THREADS + shape.cpus + (network === null ? 0 : GATE_PROCESSES),
      cpus: shape.cpus,
    });
    const plug = { kind: 'tap', owner: uid, procsFiles: cgroup.procsFiles } as const;
    const attached = network === null ? null : scope.use(await network.attach(plug));
    signal.throwIfAborted();
    const files: Furniture['binds'] = [
      [artifacts.kernel, JAIL_PATHS.kernel],
      [artifacts.initrd, JAIL_PATHS.initrd],
      ...binds,
    ];
    const lines = (pairs: Furniture['binds']) => pairs.map((pair) => pair.join(':')).join('\n');
    const restore = snapshotFd !== null;
    const child = spawn(LAUNCHER, ['join', ...this.command(shape, { drives, hasNetwork: network !== null, restore })], {
      cwd: '/',
      stdio: [
        ...(['ignore', 'pipe', 'pipe'] as const),
        ...(recover ? (['pipe', lockFd] as const) : (['ignore', 'ignore'] as const)),
        'pipe',
        ...(snapshotFd === null ? [] : [snapshotFd]),
      ],
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        JAIL_DAEMON: String(process.pid),
        JAIL_LEASH: recover ? daemonTag : '',
        JAIL_ROOT: root,
        JAIL_UID: String(uid),
        JAIL_CGROUPS: cgroup.procsFiles.join('\n'),
        JAIL_BINDS: lines(files),
        JAIL_SHARED: lines(shared),
        JAIL_FSIZE: String(shape.scratchMiB * 2 ** 20),
        JAIL_OWN: JAIL_PATHS.own,
        JAIL_NETWORK: attached?.namespacePath ?? '',
        JAIL_KVM: accelerator === 'kvm' ? 'yes' : '',
      },
    });
    const pipes: readonly unknown[] = child.stdio;
    const qmp = new Qmp(pipes[QMP_FD] as Socket);
    const ready = qmp.event((event, data) =>
      snapshotFd === null
        ? event === 'VSERPORT_CHANGE' && data['id'] === AGENT_PORT_ID && data['open'] === true
        : event === 'RESUME',
    );
    const gone = new AbortController();
    const view = child.pid === undefined ? null : SandboxView.ofChild(child.pid);
    const agent = this.#agentOf(view, gone, FIRST);
    agent.begin();
    const sandbox = new ProcessSandbox({
      handle: { version: 1, driver: 'qemu', name },
      process: child,
      agent,
      cgroup,
      owned: scope.move(),
      ...(recover ? { leash: { pipe: pipes[LEASH_FD] as Writable, uid } } : {}),
    });
    void sandbox.exited.then(() => gone.abort(new Error('QEMU ended')));
    return { sandbox, agent, qmp, ready, uid, directory };
  }

  /** Takes up the sandbox of an earlier life; null when it is gone, or is not what the handle says. Nothing is left then. */
  async find(handle: SandboxHandle): Promise<ProcessSandbox | null> {
    const { runDir, daemonTag, uids, cgroups } = this.#options;
    const directory = sandboxDirectory(runDir, handle.name);
    await using scope = new AsyncDisposableStack();
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    const cgroup = cgroups.open(`${daemonTag}.${handle.name}`);
    scope.defer(() => cgroup.remove());
    const found = await findOutliving(handle, cgroup, uids);
    if (found === null) return null;
    const view = await SandboxView.ofFound(found.state.process).catch(() => null);
    if (view === null) return null;
    scope.use(view);
    const gone = new AbortController();
    const agent = this.#agentOf(view, gone, LATER);
    const sandbox = new ProcessSandbox({ handle, process: found, agent, cgroup, owned: scope.move() });
    void sandbox.exited.then(() => gone.abort(new Error('QEMU ended')));
    return sandbox;
  }

  #agentOf(view: SandboxView | null, { signal }: AbortController, { settleMs, ...patience }: Manner): GuestStream {
    const connect = async (): Promise<Socket> => {
      if (view === null) throw new Error('QEMU does not run');
      await using held = await view.socketWhenThere(JAIL_PATHS.agent, signal);
      const socket = createConnection(held.path);
      await once(socket, 'connect');
      // A connection that breaks later must not end the daemon.
      socket.on('error', () => undefined);
      if (settleMs > 0) await sleep(settleMs);
      return socket;
    };
    return new GuestStream({ connect, deadlineMs: this.#options.bootDeadlineMs, signal, ...patience });
  }
}

/** A sandbox's own, below the driver's. */
export const sandboxDirectory = (runDir: string, name: string): string => join(runDir, name);
