import { CocoreError } from '@cocore/protocol';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import type { SandboxHandle, SandboxShape } from '../driver.ts';
import { machineMemoryMiB } from '../microvm/shape.ts';
import type { UidPool } from '../uid-pool.ts';
import { ApiClient } from './api-client.ts';
import { FirecrackerSandbox } from './firecracker-sandbox.ts';
import { type Furniture, Jail } from './jail.ts';
import { jailId, JAIL_PATHS } from './jailer-command.ts';
import { AGENT_PORT } from './machine.ts';
import type { FirecrackerTools } from './tools.ts';
import { HybridVsock, waitForListener } from './vsock.ts';

/** Its threads beside one for each CPU, and the launcher's processes. */
const VMM_THREADS = 96;
/** How long a monitor that failed is given to end, and to say why. */
const LAST_WORD_MS = 200;

export interface LauncherOptions {
  readonly tools: FirecrackerTools;
  /** For what belongs to live sandboxes. */
  readonly runDir: string;
  readonly daemonTag: string;
  readonly uids: UidPool;
  readonly cgroups: CgroupHierarchy;
  /** What the monitor needs beside the guest's memory. */
  readonly overheadMiB: number;
  readonly bootDeadlineMs: number;
  readonly apiDeadlineMs: number;
  readonly callDeadlineMs: number;
}

/** What differs between the machines of one daemon. */
export interface Launch {
  /** Names the sandbox on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  /** Puts what the machine needs into the sandbox's own directory, and says what of the host its monitor sees. */
  readonly furnish: (directory: string, uid: number) => Promise<Furniture>;
  /** Tells the new monitor over its API what its machine is. */
  readonly configure: (api: ApiClient) => Promise<void>;
}

/** A monitor in its jail that was told what its machine is. */
export interface Machine {
  readonly sandbox: FirecrackerSandbox;
  readonly agent: HybridVsock;
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
      // A broken connection is often the first sign of a monitor that ended by itself; how it ended says more.
      if (!signal.aborted) await Promise.race([sandbox.exited, sleep(LAST_WORD_MS)]);
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

  /** `gone` is aborted when the monitor has ended. */
  async #start(
    { name, shape, furnish }: Launch,
    gone: AbortController,
    signal: AbortSignal,
  ): Promise<{ machine: Machine; jail: Jail }> {
    jailId(name);
    const { tools, runDir, daemonTag, cgroups, uids, overheadMiB, bootDeadlineMs, callDeadlineMs } = this.#options;
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid } = scope.use(await uids.take());
    const group = `${daemonTag}.${name}`;
    const cgroup = await cgroups.create(group);
    scope.defer(() => cgroup.remove());
    await cgroup.limit({
      memoryBytes: (machineMemoryMiB(shape.memoryMiB) + overheadMiB) * 2 ** 20,
      pids: VMM_THREADS + shape.cpus,
      cpus: shape.cpus,
    });
    const jail = scope.use(
      await Jail.make({
        jailer: tools.jailer,
        execFile: tools.firecracker,
        name,
        uid,
        chrootBase: runDir,
        cgroup: { version: cgroups.version, path: `cocore/run/${group}`, procsFiles: cgroup.procsFiles },
      }),
    );
    const furniture = await furnish(jail.directory, uid);
    signal.throwIfAborted();
    const child = jail.launch(furniture);
    const vsock = {
      open: () => jail.socketWhenThere(JAIL_PATHS.vsock, gone.signal),
      port: AGENT_PORT,
      signal: gone.signal,
    };
    // Whoever waits for the agent's answer gives up before.
    const agent = new HybridVsock({ ...vsock, deadlineMs: bootDeadlineMs + 5_000 });
    const handle: SandboxHandle = { version: 1, driver: 'firecracker', name };
    const sandbox = new FirecrackerSandbox({ handle, child, agent, cgroup, owned: scope.move() });
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
