import { CocoreError } from '@cocore/protocol';
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { GATE_PROCESSES, type SandboxHandle, type SandboxNetwork, type SandboxShape } from '../driver.ts';
import type { GuestStream } from '../microvm/guest-stream.ts';
import { machineMemoryMiB } from '../microvm/shape.ts';
import { findOutliving } from '../outliving.ts';
import type { UidPool } from '../uid-pool.ts';
import { ApiClient, ConnectionBroken } from './api-client.ts';
import { FirecrackerSandbox } from './firecracker-sandbox.ts';
import { type Furniture, Jail, jailDirectory } from './jail.ts';
import { jailId, JAIL_PATHS } from './jailer-command.ts';
import { AGENT_PORT } from './machine.ts';
import type { FirecrackerTools } from './tools.ts';
import { hybridVsock, waitForListener } from './vsock.ts';

/** Its threads beside one for each CPU, and the launcher's processes. */
const VMM_THREADS = 96;
/** How long a monitor that failed is given to say why. */
const LAST_WORD_MS = 200;
/** How long one whose connection broke is given to have ended: on a busy host that takes a while, and how it ended says more. */
const LAST_BREATH_MS = 5_000;

export interface LauncherOptions {
  readonly tools: FirecrackerTools;
  /** For what belongs to live sandboxes. */
  readonly runDir: string;
  readonly daemonTag: string;
  readonly uids: UidPool;
  readonly cgroups: CgroupHierarchy;
  /** What the monitor needs beside the guest's memory. */
  readonly overheadMiB: number;
  /** Whether its sandboxes can be made to outlive the daemon. */
  readonly recover: boolean;
  readonly bootDeadlineMs: number;
  readonly apiDeadlineMs: number;
  readonly callDeadlineMs: number;
}

/** What differs between the machines of one daemon. */
export interface Launch {
  /** Names the sandbox on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  readonly network: SandboxNetwork | null;
  /** Puts what the machine needs into the sandbox's own directory, and says what of the host its monitor sees. */
  readonly furnish: (directory: string, uid: number) => Promise<Furniture>;
  /** Tells the new monitor over its API what its machine is. */
  readonly configure: (api: ApiClient) => Promise<void>;
}

/** A monitor in its jail that was told what its machine is. */
export interface Machine {
  readonly sandbox: FirecrackerSandbox;
  readonly agent: GuestStream;
  /** The sandbox's own, gone with it. */
  readonly directory: string;
  /** Calls the API; one caller at a time. `deadlineMs` is for each call. */
  ask(act: (api: ApiClient) => Promise<void>, deadlineMs?: number): Promise<void>;
  /** Resolves when the agent listens; nothing is said to it. Rejects when the monitor ends, or after `bootDeadlineMs`. */
  untilAgentListens(): Promise<void>;
}

/** Starts Firecracker in a jail of its own: own user id, namespaces, root and control group. */
export class FirecrackerLauncher {
  readonly #options: LauncherOptions;

  constructor(options: LauncherOptions) {
    this.#options = options;
  }

  /**
   * When it rejects, or `signal` aborts, nothing is left.
   *
   * @throws CocoreError `host_unfit` that says what the monitor said last
   */
  async launch(launch: Launch, signal: AbortSignal): Promise<Machine> {
    const gone = new AbortController();
    const { machine, jail } = await this.#start(launch, gone, signal);
    const { sandbox } = machine;
    const onAbort = () => gone.abort(signal.reason);
    signal.addEventListener('abort', onAbort);
    try {
      signal.throwIfAborted();
      await machine.ask(async (api) => {
        sandbox.take({ log: jail.fifo(JAIL_PATHS.log), metrics: jail.fifo(JAIL_PATHS.metrics) });
        await api.putMetrics({ metrics_path: JAIL_PATHS.metrics });
        await launch.configure(api);
      });
      return machine;
    } catch (cause) {
      const patienceMs = cause instanceof ConnectionBroken ? LAST_BREATH_MS : LAST_WORD_MS;
      if (!signal.aborted) await Promise.race([sandbox.exited, sleep(patienceMs, undefined, { ref: false })]);
      const reason: unknown = gone.signal.aborted ? gone.signal.reason : cause;
      await sandbox.destroy();
      signal.throwIfAborted();
      const why = reason instanceof Error ? reason.message : String(reason);
      const said = sandbox.lastWord();
      const message = `Firecracker did not start a machine: ${why}${said === '' ? '' : `; it said last: ${said}`}`;
      throw new CocoreError('host_unfit', message, { cause });
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Takes up the sandbox of an earlier life; null when it is gone, or is not what the handle says. Nothing is left then. */
  async find(handle: SandboxHandle): Promise<FirecrackerSandbox | null> {
    const { tools, runDir, daemonTag, cgroups, uids, bootDeadlineMs } = this.#options;
    const place = { execFile: tools.firecracker, name: handle.name, chrootBase: runDir };
    const directory = jailDirectory(place);
    await using scope = new AsyncDisposableStack();
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    const cgroup = cgroups.open(`${daemonTag}.${handle.name}`);
    scope.defer(() => cgroup.remove());
    const found = await findOutliving(handle, cgroup, uids);
    if (found === null) return null;
    const jail = await Jail.find(place, found.state.process).catch(() => null);
    if (jail === null) return null;
    scope.use(jail);
    const gone = new AbortController();
    const agent = hybridVsock({ ...this.#agentOf(jail, gone), deadlineMs: bootDeadlineMs });
    let pipes;
    try {
      pipes = { log: jail.fifo(JAIL_PATHS.log), metrics: jail.fifo(JAIL_PATHS.metrics) };
    } catch {
      return null;
    }
    const sandbox = new FirecrackerSandbox({ handle, process: found, agent, cgroup, owned: scope.move() });
    sandbox.take(pipes);
    void sandbox.exited.then(() => gone.abort(new Error('the monitor ended')));
    return sandbox;
  }

  #agentOf(jail: Jail, { signal }: AbortController) {
    return { open: () => jail.socketWhenThere(JAIL_PATHS.vsock, signal), port: AGENT_PORT, signal };
  }

  /** `gone` is aborted when the monitor has ended. */
  async #start(
    { name, shape, network, furnish }: Launch,
    gone: AbortController,
    signal: AbortSignal,
  ): Promise<{ machine: Machine; jail: Jail }> {
    jailId(name);
    const { tools, runDir, daemonTag, cgroups, uids, overheadMiB, recover, bootDeadlineMs, callDeadlineMs } =
      this.#options;
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid, lockFd } = scope.use(await uids.take());
    const group = `${daemonTag}.${name}`;
    const cgroup = await cgroups.create(group);
    scope.defer(() => cgroup.remove());
    await cgroup.limit({
      memoryBytes: (machineMemoryMiB(shape.memoryMiB) + overheadMiB) * 2 ** 20,
      pids: VMM_THREADS + shape.cpus + (network === null ? 0 : GATE_PROCESSES),
      cpus: shape.cpus,
    });
    const plug = { kind: 'tap', owner: uid, procsFiles: cgroup.procsFiles } as const;
    const attached = network === null ? null : scope.use(await network.attach(plug));
    signal.throwIfAborted();
    const place = { execFile: tools.firecracker, name, chrootBase: runDir };
    const jail = scope.use(await Jail.make(place));
    const furniture = await furnish(jail.directory, uid);
    signal.throwIfAborted();
    const spec = {
      ...place,
      jailer: tools.jailer,
      uid,
      networkPath: attached?.namespacePath ?? null,
      cgroup: { version: cgroups.version, path: `cocore/run/${group}`, procsFiles: cgroup.procsFiles },
      leash: recover ? { lockFd, daemonTag } : null,
    };
    const { child, leash } = jail.launch(spec, furniture);
    const vsock = this.#agentOf(jail, gone);
    // Whoever waits for the agent's answer gives up before.
    const agent = hybridVsock({ ...vsock, deadlineMs: bootDeadlineMs + 5_000 });
    const handle: SandboxHandle = { version: 1, driver: 'firecracker', name };
    const sandbox = new FirecrackerSandbox({
      handle,
      process: child,
      agent,
      cgroup,
      owned: scope.move(),
      ...(leash === null ? {} : { leash: { pipe: leash, uid } }),
    });
    void sandbox.exited.then(({ code, signal: killedBy }) => {
      gone.abort(new Error(`the monitor ended (${killedBy ?? `exit code ${code}`})`));
    });
    const machine: Machine = {
      sandbox,
      agent,
      directory: jail.directory,
      ask: (act, deadlineMs = callDeadlineMs) => this.#ask(jail, act, deadlineMs, gone.signal),
      untilAgentListens: () => waitForListener({ ...vsock, deadlineMs: bootDeadlineMs }),
    };
    return { machine, jail };
  }

  async #ask(
    jail: Jail,
    act: (api: ApiClient) => Promise<void>,
    deadlineMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    const { apiDeadlineMs } = this.#options;
    const due = AbortSignal.timeout(apiDeadlineMs);
    await using socket = await jail
      .socketWhenThere(JAIL_PATHS.apiSocket, AbortSignal.any([signal, due]))
      .catch((error: unknown) => {
        signal.throwIfAborted();
        throw due.aborted ? new Error(`there is no API socket within ${apiDeadlineMs} ms`) : error;
      });
    using api = new ApiClient({ socketPath: socket.path, deadlineMs, signal });
    await act(api);
  }
}
