import { CocoreError, SCRATCH_MIB } from '@cocore/protocol';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { openCgroups } from '../../cgroup/open.ts';
import type { HostCheck } from '../../host/check.ts';
import { type HostLock, takeHostLock } from '../../host/lock.ts';
import type {
  BlankSandbox,
  BlankSandboxes,
  DriverCapabilities,
  Sandbox,
  SandboxDriver,
  SandboxHandle,
  SandboxNetwork,
  SandboxShape,
  SandboxSpec,
} from '../driver.ts';
import { blankSandbox, makeWait } from '../microvm/blank-sandbox.ts';
import { linkOrCopy } from '../microvm/link-or-copy.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import { GUEST_OVERHEAD_MIB, GUEST_OVERHEAD_RATIO, machineMemoryMiB } from '../microvm/shape.ts';
import type { MachineShape, ShapeSnapshots } from '../microvm/shape-snapshots.ts';
import type { Snapshot, SnapshotStore } from '../microvm/snapshot-store.ts';
import { keptOf, removeAllBut, sweepGroups } from '../sweep.ts';
import { UidPool } from '../uid-pool.ts';
import type { ApiClient } from './api-client.ts';
import { boot, restore } from './configure.ts';
import type { FirecrackerSandbox } from './firecracker-sandbox.ts';
import { type Furniture, jailDirectory } from './jail.ts';
import { JAIL_PATHS } from './jailer-command.ts';
import { FirecrackerLauncher, type Launch, type Machine } from './launcher.ts';
import { type DeviceRate, DRIVE_RATE } from './machine.ts';
import { probeFirecrackerHost, type ProbedTools } from './probe.ts';
import { type BootOf, firecrackerSnapshots } from './snapshots.ts';
import { makePlaceholder, SNAPSHOT_FILES } from './template.ts';
import { versionOf } from './tools.ts';

export interface FirecrackerDriverOptions {
  /** Absolute paths, see `findTools`; null is reported by `probe`. */
  readonly tools: ProbedTools;
  readonly artifacts: { readonly kernel: string; readonly initrd: string };
  /** For what belongs to live sandboxes; the driver has it to itself. */
  readonly runDir: string;
  /** Names this daemon on the host, the same in each of its lives. */
  readonly daemonTag: string;
  /** Null: every sandbox boots cold. */
  readonly snapshots: SnapshotStore | null;
  /** What a machine with a network card is attached to while the snapshot of its shape is made; without it, machines with a network boot. */
  readonly wire?: SandboxNetwork;
  /** Whether sandboxes can be made to outlive the daemon; the default is no. */
  readonly recover?: boolean;
  readonly log?: Logger;
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

/** What is known once the driver is prepared. */
interface Prepared {
  readonly cgroups: CgroupHierarchy;
  readonly launcher: FirecrackerLauncher;
  readonly bootOf: BootOf;
  readonly snapshots: ShapeSnapshots | null;
}

/**
 * Sandboxes that are Firecracker machines under its jailer, on KVM: isolation class `microvm`. Each has its own user id, namespaces, root and
 * control group (`launch.sh`, `jailer-command.ts`), and dies with the daemon unless it was made to outlive it. A start restores the snapshot of
 * its shape, which the first start makes; without one it boots.
 */
export class FirecrackerDriver implements SandboxDriver, BlankSandboxes {
  readonly capabilities: DriverCapabilities;
  readonly #options: FirecrackerDriverOptions;
  readonly #uids: UidPool;
  readonly #scratch: ScratchTemplates;
  readonly #overheadMiB: number;
  readonly #alive = new Set<FirecrackerSandbox>();
  /** Sandboxes of an earlier life that nobody has taken up yet. */
  #kept: readonly SandboxHandle[] = [];
  /** By it, sandboxes that outlive a daemon see that there is one again. */
  #presence: HostLock | null = null;
  #prepared: Prepared | null = null;

  constructor(options: FirecrackerDriverOptions) {
    this.#options = options;
    this.#uids = options.uids ?? new UidPool();
    this.#scratch = new ScratchTemplates(options.runDir);
    this.#overheadMiB = options.vmmOverheadMiB ?? VMM_OVERHEAD_MIB;
    this.capabilities = {
      name: 'firecracker',
      isolation: 'microvm',
      snapshot: options.snapshots !== null,
      recover: options.recover ?? false,
      network: true,
      runsCode: true,
      overheadMiB: GUEST_OVERHEAD_MIB + this.#overheadMiB,
      overheadRatio: GUEST_OVERHEAD_RATIO,
      bootDeadlineMs: options.bootDeadlineMs ?? 10_000,
    };
  }

  probe(): Promise<HostCheck[]> {
    return probeFirecrackerHost(this.#options.tools);
  }

  async prepare(kept: readonly SandboxHandle[] = []): Promise<void> {
    const missing = (await this.probe()).find((check) => !check.ok);
    if (missing !== undefined) {
      const { name, reason, remedy } = missing;
      throw new CocoreError('host_unfit', `${name}: ${reason}${remedy === null ? '' : ` (${remedy})`}`);
    }
    const { tools, runDir, daemonTag, apiDeadlineMs = 10_000, callDeadlineMs = 5_000 } = this.#options;
    const firecracker = tools.firecracker!;
    const version = await versionOf(firecracker);
    const cgroups = await openCgroups();
    const { recover } = this.capabilities;
    this.#kept = recover ? keptOf('firecracker', kept) : [];
    if (recover) this.#presence = await takeHostLock(`daemon/${daemonTag}`);
    await sweepGroups(cgroups, daemonTag, this.#kept);
    await this.#sweepFiles();
    await mkdir(runDir, { recursive: true, mode: 0o700 });
    await this.#scratch.prepare(SCRATCH_MIB);
    await makePlaceholder(this.#placeholder, null);
    const launcher = new FirecrackerLauncher({
      tools: { firecracker, jailer: tools.jailer! },
      runDir,
      daemonTag,
      uids: this.#uids,
      cgroups,
      overheadMiB: this.#overheadMiB,
      recover,
      bootDeadlineMs: this.capabilities.bootDeadlineMs,
      apiDeadlineMs,
      callDeadlineMs,
    });
    const { snapshots: store, artifacts, wire = null, driveRate = DRIVE_RATE, log } = this.#options;
    const bootOf: BootOf = ({ memoryMiB, cpus, hasNetwork }) => {
      const machine = { cpus, memoryMiB: machineMemoryMiB(memoryMiB), driveRate, hasNetwork, version };
      return (api: ApiClient) => boot(api, machine);
    };
    const binds = [...this.#kernel(), ...this.#placeholders()];
    const { bootDeadlineMs } = this.capabilities;
    const parts = {
      launcher,
      artifacts,
      version,
      execFile: firecracker,
      driveRate,
      binds,
      wire,
      bootOf,
      bootDeadlineMs,
      log,
    };
    const snapshots = store === null ? null : await firecrackerSnapshots({ store, ...parts });
    this.#prepared = { cgroups, launcher, bootOf, snapshots };
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    const furnish = async (directory: string, uid: number): Promise<Furniture> => {
      const scratch = join(directory, 'scratch');
      await this.#scratch.write(scratch, spec.scratchMiB, uid);
      return {
        binds: [
          [spec.imagePath, JAIL_PATHS.rootfs],
          [spec.codePath, JAIL_PATHS.code],
        ],
        writable: [[scratch, JAIL_PATHS.scratch]],
        fileBytes: spec.scratchMiB * 2 ** 20,
      };
    };
    const { sandbox } = await this.#launch(spec.name, spec, furnish, { isPaused: false }, signal, spec.network);
    return sandbox;
  }

  async startBlank(name: string, shape: SandboxShape, signal: AbortSignal): Promise<BlankSandbox> {
    const drivesOf = (directory: string) => join(directory, 'drives');
    const furnish = async (directory: string, uid: number): Promise<Furniture> => {
      const scratch = join(directory, 'scratch');
      await this.#scratch.write(scratch, shape.scratchMiB, uid);
      await mkdir(drivesOf(directory));
      return {
        binds: [...this.#placeholders(), [drivesOf(directory), JAIL_PATHS.drives]],
        writable: [[scratch, JAIL_PATHS.scratch]],
        fileBytes: shape.scratchMiB * 2 ** 20,
      };
    };
    const machine = await this.#launch(name, shape, furnish, { isPaused: true }, signal);
    return blankSandbox(machine.sandbox, (spec) => fill(machine, drivesOf(machine.directory), spec));
  }

  async recover(handle: SandboxHandle): Promise<Sandbox | null> {
    if (this.#prepared === null) throw new Error('the driver is not prepared');
    // The sweep has destroyed what was not kept.
    if (!this.#kept.some(({ name }) => name === handle.name)) return null;
    const sandbox = await this.#prepared.launcher.find(handle);
    this.#kept = this.#kept.filter(({ name }) => name !== handle.name);
    if (sandbox !== null) this.#watch(sandbox);
    return sandbox;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#prepared?.snapshots?.[Symbol.asyncDispose]();
    await Promise.all([...this.#alive].map((sandbox) => sandbox.destroy()));
    // What is there before may be what another driver is to take up.
    if (this.#prepared !== null) await this.#sweepFiles();
    await this.#prepared?.cgroups.tidy();
    await this.#presence?.[Symbol.asyncDispose]();
  }

  /** From the snapshot of its shape where there is one and it works, else cold. A paused machine has an agent that listens. */
  async #launch(
    name: string,
    shape: SandboxShape,
    furnish: Launch['furnish'],
    { isPaused }: { readonly isPaused: boolean },
    signal: AbortSignal,
    network: SandboxNetwork | null = null,
  ): Promise<Machine> {
    if (this.#prepared === null) throw new Error('the driver is not prepared');
    const { snapshots, bootOf } = this.#prepared;
    const hasNetwork = network !== null;
    const of = { ...shape, hasNetwork };
    const mayRestore = !hasNetwork || this.#options.wire !== undefined;
    {
      await using snapshot = mayRestore ? ((await snapshots?.open(of, signal)) ?? null) : null;
      if (snapshot !== null) {
        try {
          return await this.#restore(snapshot, name, of, network, furnish, isPaused, signal);
        } catch (err) {
          signal.throwIfAborted();
          this.#options.log?.warn({ err }, 'a snapshot cannot be loaded, and is removed: the sandbox boots instead');
          await snapshots?.discard(of);
        }
      }
    }
    const configure = bootOf(of);
    const machine = await this.#begin({ name, shape, network, furnish: this.#withKernel(furnish), configure }, signal);
    if (isPaused) {
      await makeWait(machine.sandbox, signal, async () => {
        await machine.untilAgentListens();
        await machine.ask((api) => api.patchVm('Paused'));
      });
    }
    return machine;
  }

  async #restore(
    { directory }: Snapshot,
    name: string,
    shape: MachineShape,
    network: SandboxNetwork | null,
    furnish: Launch['furnish'],
    isPaused: boolean,
    signal: AbortSignal,
  ): Promise<Machine> {
    const withSnapshot: Launch['furnish'] = async (own, uid) => {
      const furniture = await furnish(own, uid);
      const files = SNAPSHOT_FILES.map((file) => [join(directory, file), JAIL_PATHS[file]] as const);
      return { ...furniture, binds: [...furniture.binds, ...files] };
    };
    const configure = (api: ApiClient) => restore(api, { isPaused });
    const machine = await this.#begin({ name, shape, network, furnish: withSnapshot, configure }, signal);
    this.#prepared?.snapshots?.judge(shape, machine.sandbox, () => (isPaused ? 1 : machine.agent.bytesRead));
    return machine;
  }

  async #begin(launch: Launch, signal: AbortSignal): Promise<Machine> {
    const machine = await this.#prepared!.launcher.launch(launch, signal);
    this.#watch(machine.sandbox);
    return machine;
  }

  #watch(sandbox: FirecrackerSandbox): void {
    this.#alive.add(sandbox);
    void sandbox.exited.then(() => this.#alive.delete(sandbox));
  }

  /** The machine's kernel and initial file system, which only one that boots needs. */
  #withKernel(furnish: Launch['furnish']): Launch['furnish'] {
    return async (directory, uid) => {
      const furniture = await furnish(directory, uid);
      return { ...furniture, binds: [...this.#kernel(), ...furniture.binds] };
    };
  }

  #kernel(): Furniture['binds'] {
    const { kernel, initrd } = this.#options.artifacts;
    return [
      [kernel, JAIL_PATHS.kernel],
      [initrd, JAIL_PATHS.initrd],
    ];
  }

  /** For the drives of a machine that does not know yet what runs in it. */
  #placeholders(): Furniture['binds'] {
    return [
      [this.#placeholder, JAIL_PATHS.rootfs],
      [this.#placeholder, JAIL_PATHS.code],
    ];
  }

  get #placeholder(): string {
    return join(this.#options.runDir, 'placeholder');
  }

  /** All that is in the driver's directory, but for what belongs to what is kept. */
  async #sweepFiles(): Promise<void> {
    const { runDir: chrootBase, tools } = this.#options;
    const jails = this.#kept.map(({ name }) => jailDirectory({ execFile: tools.firecracker!, name, chrootBase }));
    await removeAllBut(chrootBase, jails);
  }
}

/** The function's files appear in the directory, and Firecracker puts them in the placeholders' place. */
async function fill(machine: Machine, drivesDirectory: string, spec: SandboxSpec): Promise<void> {
  const metering = machine.sandbox.beginMetering();
  const files = [
    ['rootfs', spec.imagePath],
    ['code', spec.codePath],
  ] as const;
  await Promise.all(files.map(([drive, path]) => linkOrCopy(path, join(drivesDirectory, drive))));
  await metering;
  await machine.ask(async (api) => {
    for (const [drive] of files) {
      await api.patchDrive({ drive_id: drive, path_on_host: `${JAIL_PATHS.drives}/${drive}` });
    }
    await api.patchVm('Resumed');
  });
}
