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
import type { Artifacts } from '../microvm/artifacts.ts';
import { blankSandbox, makeWait } from '../microvm/blank-sandbox.ts';
import { linkOrCopy } from '../microvm/link-or-copy.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import { GUEST_OVERHEAD_MIB, GUEST_OVERHEAD_RATIO } from '../microvm/shape.ts';
import type { ShapeSnapshots } from '../microvm/shape-snapshots.ts';
import type { SnapshotStore } from '../microvm/snapshot-store.ts';
import type { ProcessSandbox } from '../process-sandbox.ts';
import { keptOf, removeAllBut, sweepGroups } from '../sweep.ts';
import { UidPool } from '../uid-pool.ts';
import { type Accelerator, type DriveName, driveOptions, drivePath, DRIVES, JAIL_PATHS } from './command.ts';
import {
  type Furniture,
  type Launch,
  type Machine,
  QemuLauncher,
  sandboxDirectory,
  VMM_OVERHEAD_MIB,
} from './launcher.ts';
import { probeQemuHost } from './probe.ts';
import { qemuSnapshots } from './snapshots.ts';
import { hostTscKhz } from './tsc.ts';

export interface QemuDriverOptions {
  readonly artifacts: Artifacts;
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
  readonly accelerator?: Accelerator;
  readonly log?: Logger;
  readonly uids?: UidPool;
  readonly bootDeadlineMs?: number;
}

/** What is known once the driver is prepared. */
interface Prepared {
  readonly cgroups: CgroupHierarchy;
  readonly launcher: QemuLauncher;
  readonly snapshots: ShapeSnapshots | null;
}

/**
 * Sandboxes that are QEMU machines of type `microvm`. Under KVM their class is `microvm`. Under software emulation they are real microVMs
 * too, but emulation is no wall that its makers answer for: class `emulated`. A start restores the snapshot of its shape, which
 * the first start makes; without one it boots.
 */
export class QemuDriver implements SandboxDriver, BlankSandboxes {
  readonly capabilities: DriverCapabilities;
  readonly #options: QemuDriverOptions;
  readonly #accelerator: Accelerator;
  readonly #uids: UidPool;
  readonly #scratch: ScratchTemplates;
  readonly #alive = new Set<ProcessSandbox>();
  /** Sandboxes of an earlier life that nobody has taken up yet. */
  #kept: readonly SandboxHandle[] = [];
  /** By it, sandboxes that outlive a daemon see that there is one again. */
  #presence: HostLock | null = null;
  #prepared: Prepared | null = null;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#accelerator = options.accelerator ?? 'tcg';
    this.#uids = options.uids ?? new UidPool();
    this.#scratch = new ScratchTemplates(options.runDir);
    this.capabilities = {
      name: 'qemu',
      isolation: this.#accelerator === 'kvm' ? 'microvm' : 'emulated',
      snapshot: options.snapshots !== null,
      recover: options.recover ?? false,
      network: true,
      runsCode: true,
      overheadMiB: GUEST_OVERHEAD_MIB + VMM_OVERHEAD_MIB,
      overheadRatio: GUEST_OVERHEAD_RATIO,
      bootDeadlineMs: options.bootDeadlineMs ?? 20_000,
    };
  }

  probe(): Promise<HostCheck[]> {
    return probeQemuHost(this.#options.artifacts.qemu);
  }

  async prepare(kept: readonly SandboxHandle[] = []): Promise<void> {
    const missing = (await this.probe()).find((check) => !check.ok);
    if (missing !== undefined) {
      const { name, reason, remedy } = missing;
      throw new CocoreError('host_unfit', `${name}: ${reason}${remedy === null ? '' : ` (${remedy})`}`);
    }
    const cgroups = await openCgroups();
    const { runDir, artifacts, daemonTag, snapshots: store, wire = null, log } = this.#options;
    const { bootDeadlineMs, recover } = this.capabilities;
    this.#kept = recover ? keptOf('qemu', kept) : [];
    if (recover) this.#presence = await takeHostLock(`daemon/${daemonTag}`);
    await sweepGroups(cgroups, daemonTag, this.#kept);
    await this.#sweepFiles();
    await mkdir(runDir, { recursive: true, mode: 0o700 });
    await this.#scratch.prepare(SCRATCH_MIB);
    const accelerator = this.#accelerator;
    const tscKhz = await hostTscKhz();
    const launcher = new QemuLauncher({
      artifacts,
      accelerator,
      runDir,
      daemonTag,
      uids: this.#uids,
      cgroups,
      tscKhz,
      recover,
      bootDeadlineMs,
    });
    const snapshots =
      store === null ? null : await qemuSnapshots({ store, launcher, artifacts, wire, bootDeadlineMs, log });
    this.#prepared = { cgroups, launcher, snapshots };
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    const furnish = async (directory: string, uid: number) => {
      const scratch = join(directory, 'scratch');
      await this.#scratch.write(scratch, spec.scratchMiB, uid);
      return {
        binds: [
          [spec.imagePath, drivePath('rootfs')],
          [spec.codePath, drivePath('code')],
        ],
        shared: [[scratch, drivePath('scratch')]],
      } satisfies Furniture;
    };
    const { sandbox } = await this.#launch(spec.name, spec, 'files', furnish, signal, spec.network);
    return sandbox;
  }

  async startBlank(name: string, shape: SandboxShape, signal: AbortSignal): Promise<BlankSandbox> {
    const drivesOf = (directory: string) => join(directory, 'drives');
    const furnish = async (directory: string) => {
      await mkdir(drivesOf(directory));
      return { binds: [], shared: [[drivesOf(directory), JAIL_PATHS.drives]] } satisfies Furniture;
    };
    const machine = await this.#launch(name, shape, 'placeholders', furnish, signal);
    await makeWait(machine.sandbox, signal, async () => {
      await machine.ready;
      // Its time stands still while it waits: an agent that nobody greets would power off, and it costs nothing.
      await machine.qmp.execute('stop');
    });
    return blankSandbox(machine.sandbox, (spec) => this.#fill(machine, drivesOf(machine.directory), spec));
  }

  /** The files appear in the directory that the jail shows, and QEMU puts them below the devices in the placeholders' place. */
  async #fill({ sandbox, qmp, uid }: Machine, drives: string, spec: SandboxSpec): Promise<void> {
    const metering = sandbox.beginMetering();
    await Promise.all([
      linkOrCopy(spec.imagePath, join(drives, 'rootfs')),
      linkOrCopy(spec.codePath, join(drives, 'code')),
      this.#scratch.write(join(drives, 'scratch'), spec.scratchMiB, uid),
    ]);
    await Promise.all(DRIVES.map((name) => exchange(qmp, name)));
    await metering;
    await qmp.execute('cont');
  }

  async #launch(
    name: string,
    shape: SandboxShape,
    drives: 'files' | 'placeholders',
    furnish: Launch['furnish'],
    signal: AbortSignal,
    network: SandboxNetwork | null = null,
  ): Promise<Machine> {
    if (this.#prepared === null) throw new Error('the driver is not prepared');
    const { launcher, snapshots } = this.#prepared;
    signal.throwIfAborted();
    const hasNetwork = network !== null;
    const of = { ...shape, hasNetwork };
    const mayRestore = !hasNetwork || this.#options.wire !== undefined;
    await using snapshot = mayRestore ? ((await snapshots?.open(of, signal)) ?? null) : null;
    const snapshotFd = snapshot?.files[0]!.fd ?? null;
    const machine = await launcher.launch({ name, shape, drives, snapshotFd, network, furnish }, signal);
    const { sandbox, agent } = machine;
    this.#own(sandbox);
    if (snapshot !== null) snapshots?.judge(of, sandbox, () => agent.bytesRead);
    return machine;
  }

  async recover(handle: SandboxHandle): Promise<Sandbox | null> {
    if (this.#prepared === null) throw new Error('the driver is not prepared');
    // The sweep has destroyed what was not kept.
    if (!this.#kept.some(({ name }) => name === handle.name)) return null;
    const sandbox = await this.#prepared.launcher.find(handle);
    this.#kept = this.#kept.filter(({ name }) => name !== handle.name);
    if (sandbox !== null) this.#own(sandbox);
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

  #own(sandbox: ProcessSandbox): void {
    this.#alive.add(sandbox);
    void sandbox.exited.then(() => this.#alive.delete(sandbox));
  }

  /** All that is in the driver's directory, but for what belongs to what is kept. */
  async #sweepFiles(): Promise<void> {
    const { runDir } = this.#options;
    await removeAllBut(
      runDir,
      this.#kept.map(({ name }) => sandboxDirectory(runDir, name)),
    );
  }
}

async function exchange(qmp: Machine['qmp'], name: DriveName): Promise<void> {
  const node = `${name}-given`;
  const options = driveOptions(name);
  await qmp.execute('blockdev-add', {
    driver: 'file',
    'node-name': node,
    filename: drivePath(name),
    locking: 'off',
    ...options,
  });
  await qmp.execute('blockdev-reopen', { options: [{ driver: 'raw', 'node-name': name, file: node, ...options }] });
}
