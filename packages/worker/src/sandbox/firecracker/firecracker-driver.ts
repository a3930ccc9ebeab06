import { CocoreError, SCRATCH_MIB } from '@cocore/protocol';
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { openCgroups } from '../../cgroup/open.ts';
import type { HostCheck } from '../../host/check.ts';
import type { DriverCapabilities, Sandbox, SandboxDriver, SandboxHandle, SandboxSpec } from '../driver.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import { GUEST_OVERHEAD_MIB, GUEST_OVERHEAD_RATIO, machineMemoryMiB } from '../microvm/shape.ts';
import { UidPool } from '../uid-pool.ts';
import { ApiClient } from './api-client.ts';
import { FirecrackerSandbox } from './firecracker-sandbox.ts';
import { Jail } from './jail.ts';
import { jailId, JAIL_PATHS } from './jailer-command.ts';
import {
  AGENT_PORT,
  BOOT_ARGS,
  type DeviceRate,
  DRIVE_RATE,
  drives,
  entropyRate,
  GUEST_CID,
  machineConfiguration,
  serialDevice,
} from './machine.ts';
import { probeFirecrackerHost, type ProbedTools } from './probe.ts';
import { isAtLeast, type Version, versionOf } from './tools.ts';
import { HybridVsock } from './vsock.ts';

export interface FirecrackerDriverOptions {
  /** Absolute paths, see `findTools`; null is reported by `probe`. */
  readonly tools: ProbedTools;
  readonly artifacts: { readonly kernel: string; readonly initrd: string };
  /** For what belongs to live sandboxes; the driver has it to itself. */
  readonly runDir: string;
  /** Names this daemon on the host, the same in each of its lives. */
  readonly daemonTag: string;
  readonly uids?: UidPool;
  readonly driveRate?: DeviceRate;
  readonly bootDeadlineMs?: number;
  /** From the jailer's start to the socket of the API. */
  readonly apiDeadlineMs?: number;
  /** For each call of the API. */
  readonly callDeadlineMs?: number;
  /** What the monitor needs beside the guest's memory. */
  readonly vmmOverheadMiB?: number;
}

/** Firecracker with its threads' stacks, the copy of its program in the jail, and the launcher. */
export const VMM_OVERHEAD_MIB = 32;
/** Its threads beside one for each CPU, and the launcher's processes. */
const VMM_THREADS = 96;
/** How long a monitor that failed is given to end, and to say why. */
const LAST_WORD_MS = 200;
/** `PUT /serial` takes a rate from here on. */
const SERIAL_RATE_SINCE = [1, 16] as const;

/**
 * Sandboxes that are Firecracker machines under its jailer, on KVM: isolation class `microvm`. Each has its own user id, namespaces, root and
 * control group (`launch.sh`, `jailer-command.ts`), and dies with the daemon.
 */
export class FirecrackerDriver implements SandboxDriver {
  readonly capabilities: DriverCapabilities;
  readonly #options: FirecrackerDriverOptions;
  readonly #uids: UidPool;
  readonly #scratch: ScratchTemplates;
  readonly #overheadMiB: number;
  readonly #alive = new Set<FirecrackerSandbox>();
  #prepared: { readonly cgroups: CgroupHierarchy; readonly version: Version } | null = null;

  constructor(options: FirecrackerDriverOptions) {
    this.#options = options;
    this.#uids = options.uids ?? new UidPool();
    this.#scratch = new ScratchTemplates(options.runDir);
    this.#overheadMiB = options.vmmOverheadMiB ?? VMM_OVERHEAD_MIB;
    this.capabilities = {
      name: 'firecracker',
      isolation: 'microvm',
      snapshot: false,
      recover: false,
      network: false,
      runsCode: true,
      overheadMiB: GUEST_OVERHEAD_MIB + this.#overheadMiB,
      overheadRatio: GUEST_OVERHEAD_RATIO,
      bootDeadlineMs: options.bootDeadlineMs ?? 10_000,
    };
  }

  probe(): Promise<HostCheck[]> {
    return probeFirecrackerHost(this.#options.tools);
  }

  async prepare(): Promise<void> {
    const missing = (await this.probe()).find((check) => !check.ok);
    if (missing !== undefined) {
      const { name, reason, remedy } = missing;
      throw new CocoreError('host_unfit', `${name}: ${reason}${remedy === null ? '' : ` (${remedy})`}`);
    }
    const version = await versionOf(this.#options.tools.firecracker!);
    const cgroups = await openCgroups();
    await this.#reclaim(cgroups);
    await mkdir(this.#options.runDir, { recursive: true, mode: 0o700 });
    await this.#scratch.prepare(SCRATCH_MIB);
    this.#prepared = { cgroups, version };
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    jailId(spec.name);
    const { tools, artifacts, runDir, daemonTag } = this.#options;
    const { firecracker, jailer } = tools;
    if (this.#prepared === null || firecracker === null || jailer === null)
      throw new Error('the driver is not prepared');
    const { cgroups } = this.#prepared;
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid } = scope.use(await this.#uids.take());
    const group = `${daemonTag}.${spec.name}`;
    const cgroup = await cgroups.create(group);
    scope.defer(() => cgroup.remove());
    const memoryMiB = machineMemoryMiB(spec.memoryMiB);
    await cgroup.limit({
      memoryBytes: (memoryMiB + this.#overheadMiB) * 2 ** 20,
      pids: VMM_THREADS + spec.cpus,
      cpus: spec.cpus,
    });
    const jail = scope.use(
      await Jail.make({
        jailer,
        execFile: firecracker,
        name: spec.name,
        uid,
        chrootBase: runDir,
        cgroup: { version: cgroups.version, path: `cocore/run/${group}`, procsFiles: cgroup.procsFiles },
        scratchBytes: spec.scratchMiB * 2 ** 20,
        kernel: artifacts.kernel,
        initrd: artifacts.initrd,
        imagePath: spec.imagePath,
        codePath: spec.codePath,
      }),
    );
    await this.#scratch.write(jail.scratchPath, spec.scratchMiB, uid);
    signal.throwIfAborted();

    const child = jail.launch();
    const gone = new AbortController();
    const agent = new HybridVsock({
      open: () => jail.socketWhenThere(JAIL_PATHS.vsock, gone.signal),
      port: AGENT_PORT,
      // Whoever waits for the agent gives up before.
      deadlineMs: this.capabilities.bootDeadlineMs + 5_000,
      signal: gone.signal,
    });
    const handle: SandboxHandle = { version: 1, driver: 'firecracker', name: spec.name };
    const sandbox = new FirecrackerSandbox({ handle, child, agent, cgroup, owned: scope.move() });
    this.#alive.add(sandbox);
    void sandbox.exited.then(({ code, signal: killedBy }) => {
      this.#alive.delete(sandbox);
      gone.abort(new Error(`the monitor ended (${killedBy ?? `exit code ${code}`})`));
    });
    try {
      await this.#boot(sandbox, jail, { cpus: spec.cpus, memoryMiB }, AbortSignal.any([signal, gone.signal]));
      return sandbox;
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
    }
  }

  async recover(handle: SandboxHandle): Promise<Sandbox | null> {
    await this.#prepared?.cgroups.open(`${this.#options.daemonTag}.${handle.name}`).remove();
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#alive].map((sandbox) => sandbox.destroy()));
    await rm(this.#options.runDir, { recursive: true, force: true });
    await this.#prepared?.cgroups.tidy();
  }

  /** Tells the new monitor what its machine is, and starts that. */
  async #boot(
    sandbox: FirecrackerSandbox,
    jail: Jail,
    machine: { readonly cpus: number; readonly memoryMiB: number },
    signal: AbortSignal,
  ): Promise<void> {
    const { apiDeadlineMs = 10_000, callDeadlineMs = 5_000, driveRate = DRIVE_RATE } = this.#options;
    const due = AbortSignal.timeout(apiDeadlineMs);
    await using socket = await jail
      .socketWhenThere(JAIL_PATHS.apiSocket, AbortSignal.any([signal, due]))
      .catch((error: unknown) => {
        signal.throwIfAborted();
        throw due.aborted ? new Error(`there is no API socket within ${apiDeadlineMs} ms`) : error;
      });
    using api = new ApiClient({ socketPath: socket.path, deadlineMs: callDeadlineMs, signal });
    sandbox.take({ log: jail.fifo(JAIL_PATHS.log), metrics: jail.fifo(JAIL_PATHS.metrics) });
    await api.putMetrics({ metrics_path: JAIL_PATHS.metrics });
    await api.putMachineConfig(machineConfiguration(machine.cpus, machine.memoryMiB));
    await api.putBootSource({
      kernel_image_path: JAIL_PATHS.kernel,
      initrd_path: JAIL_PATHS.initrd,
      boot_args: BOOT_ARGS,
    });
    for (const drive of drives(driveRate)) await api.putDrive(drive);
    await api.putEntropy({ rate_limiter: entropyRate });
    if (isAtLeast(this.#prepared!.version, SERIAL_RATE_SINCE)) await api.putSerial(serialDevice);
    await api.putVsock({ guest_cid: GUEST_CID, uds_path: JAIL_PATHS.vsock });
    await api.act('InstanceStart');
  }

  /** Kills and removes what a dead life of this daemon left: its machines die with it, but groups and files stay. */
  async #reclaim(cgroups: CgroupHierarchy): Promise<void> {
    const ours = (await cgroups.list()).filter((name) => name.startsWith(`${this.#options.daemonTag}.`));
    for (const name of ours) await cgroups.open(name).remove();
    await rm(this.#options.runDir, { recursive: true, force: true });
  }
}
