import { CocoreError, isAtLeast, type IsolationClass, SCRATCH_MIB } from '@cocore/protocol';
import { dirname, join } from 'node:path';
import type { Logger } from 'pino';
import { bareWire } from './network/bare-wire.ts';
import type { BlankSandboxes, SandboxDriver, SandboxHandle } from './sandbox/driver.ts';
import { FakeDriver } from './sandbox/fake/fake-driver.ts';
import { openLedger } from './sandbox/fake/ledger.ts';
import { FirecrackerDriver } from './sandbox/firecracker/firecracker-driver.ts';
import { findTools } from './sandbox/firecracker/tools.ts';
import { trialBoot } from './sandbox/firecracker/trial-boot.ts';
import type { Artifacts } from './sandbox/microvm/artifacts.ts';
import { SnapshotStore } from './sandbox/microvm/snapshot-store.ts';
import { OciDriver } from './sandbox/oci/oci-driver.ts';
import { CRUN, GVISOR } from './sandbox/oci/runtimes.ts';
import { type KvmVerdict, probeKvm } from './sandbox/qemu/kvm.ts';
import { QemuDriver } from './sandbox/qemu/qemu-driver.ts';

/**
 * The drivers of this worker by name, and the choice between them. Nothing else names a concrete driver.
 */
export const DRIVER_NAMES = ['firecracker', 'qemu', 'gvisor', 'crun', 'fake'] as const;
export type DriverName = (typeof DRIVER_NAMES)[number];

export interface DriverParts {
  /** Null only for the fake driver. */
  readonly artifacts: Artifacts | null;
  /** Where the artifacts are described; what is found out of this host and what is made of it is kept beside. */
  readonly artifactsPath: string;
  readonly runDir: string;
  readonly daemonTag: string;
  readonly snapshotBudgetBytes: number;
  /** Whether sandboxes may outlive the daemon, for its next life to take them up. */
  readonly recover: boolean;
  /** Sandboxes of an earlier life that are to be taken up. */
  readonly kept: readonly SandboxHandle[];
  readonly env: NodeJS.ProcessEnv;
  readonly log: Logger;
}

/** A driver that is prepared; with the power to start blank sandboxes, if it has it. */
export interface ChosenDriver {
  readonly driver: SandboxDriver;
  readonly blanks: (SandboxDriver & BlankSandboxes) | null;
}

/** From the strongest class to the weakest, as `auto` tries them. */
const AUTO: readonly Candidate[] = [
  { what: 'firecracker', isolation: 'microvm', make: onKvm(makeFirecracker), trial: bootsOnce },
  { what: 'qemu with KVM', isolation: 'microvm', make: onKvm((parts) => makeQemu(parts, 'kvm')) },
  { what: 'gvisor', isolation: 'gvisor', make: (parts) => only(new OciDriver({ ...parts, runtime: GVISOR })) },
  { what: 'qemu', isolation: 'emulated', make: (parts) => makeQemu(parts, 'tcg') },
  { what: 'crun', isolation: 'container', make: (parts) => only(new OciDriver({ ...parts, runtime: CRUN })) },
];

interface Candidate {
  readonly what: string;
  readonly isolation: IsolationClass;
  readonly make: Maker;
  /** What a prepared driver must still show. @throws CocoreError `host_unfit` */
  readonly trial?: (driver: SandboxDriver, parts: DriverParts) => Promise<void>;
}

type Maker = (parts: DriverParts) => ChosenDriver | Promise<ChosenDriver>;

/** The driver of this name, prepared. @throws CocoreError `host_unfit` or `artifact_missing` */
export async function driverNamed(name: DriverName, parts: DriverParts): Promise<ChosenDriver> {
  return prepared(await makers[name](parts), parts);
}

/**
 * The strongest driver that works on this host, prepared, none weaker than `atLeast`.
 *
 * @throws CocoreError `host_unfit` that says why each did not
 */
export async function strongestDriver(atLeast: IsolationClass, parts: DriverParts): Promise<ChosenDriver> {
  const reasons: string[] = [];
  for (const { what, isolation, make, trial } of AUTO) {
    if (!isAtLeast(isolation, atLeast)) continue;
    try {
      const chosen = await prepared(await make(parts), parts);
      if (trial !== undefined) await orDispose(chosen.driver, () => trial(chosen.driver, parts));
      return chosen;
    } catch (error) {
      if (!(error instanceof CocoreError)) throw error;
      reasons.push(`${what}: ${error.message}`);
    }
  }
  throw new CocoreError(
    'host_unfit',
    `this host cannot give isolation ${atLeast} or better (${reasons.join('; ')}); a weaker driver must be asked for by name`,
  );
}

const makers: Record<DriverName, Maker> = {
  firecracker: makeFirecracker,
  qemu: async (parts) => makeQemu(parts, (await kvmVerdict(parts)).works ? 'kvm' : 'tcg'),
  gvisor: (parts) => only(new OciDriver({ ...parts, runtime: GVISOR })),
  crun: (parts) => only(new OciDriver({ ...parts, runtime: CRUN })),
  fake: makeFake,
};

const only = (driver: SandboxDriver): ChosenDriver => ({ driver, blanks: null });

/** `COCORE_FAKE_LEDGER` names the file that side effects go to. */
function makeFake({ env }: DriverParts): ChosenDriver {
  const path = env['COCORE_FAKE_LEDGER'];
  return only(new FakeDriver(path === undefined ? {} : { ledger: openLedger(path) }));
}

async function prepared(chosen: ChosenDriver, { kept }: DriverParts): Promise<ChosenDriver> {
  await orDispose(chosen.driver, () => chosen.driver.prepare(kept));
  return chosen;
}

async function orDispose(driver: SandboxDriver, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    await driver[Symbol.asyncDispose]();
    throw error;
  }
}

async function bootsOnce(driver: SandboxDriver, parts: DriverParts): Promise<void> {
  const { baseImage } = built(parts);
  const spec = { memoryMiB: 128, cpus: 1, scratchMiB: SCRATCH_MIB, imagePath: baseImage, codePath: baseImage };
  const check = await trialBoot(driver, { ...spec, name: 'trial' });
  if (!check.ok) throw new CocoreError('host_unfit', check.reason);
}

function onKvm(make: Maker): Maker {
  return async (parts) => {
    const { works, reason } = await kvmVerdict(parts);
    if (!works) throw new CocoreError('host_unfit', reason);
    return make(parts);
  };
}

async function makeFirecracker(parts: DriverParts): Promise<ChosenDriver> {
  const tools = await findTools(parts.env);
  // For a host whose machines are slow to boot, or a monitor that is more than Firecracker.
  const bootDeadlineMs = numberIn(parts.env, 'COCORE_BOOT_DEADLINE_MS');
  const vmmOverheadMiB = numberIn(parts.env, 'COCORE_VMM_OVERHEAD_MIB');
  const driver = new FirecrackerDriver({
    ...parts,
    artifacts: built(parts),
    tools,
    snapshots: snapshotStore(parts),
    wire: bareWire(),
    ...(bootDeadlineMs === null ? {} : { bootDeadlineMs, apiDeadlineMs: bootDeadlineMs }),
    ...(vmmOverheadMiB === null ? {} : { vmmOverheadMiB }),
  });
  return { driver, blanks: driver };
}

/** @throws CocoreError `usage` */
function numberIn(env: NodeJS.ProcessEnv, name: string): number | null {
  const text = env[name];
  if (text === undefined || text === '') return null;
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new CocoreError('usage', `${name} must be a whole number from 1`);
  return Number(text);
}

function makeQemu(parts: DriverParts, accelerator: 'kvm' | 'tcg'): ChosenDriver {
  const driver = new QemuDriver({
    ...parts,
    artifacts: built(parts),
    snapshots: snapshotStore(parts),
    wire: bareWire(),
    accelerator,
  });
  return { driver, blanks: driver };
}

/** One for all daemons of the host, beside the artifacts. */
function snapshotStore({ artifactsPath, snapshotBudgetBytes }: DriverParts): SnapshotStore {
  return new SnapshotStore({ directory: join(dirname(artifactsPath), 'snapshots'), budgetBytes: snapshotBudgetBytes });
}

function kvmVerdict(parts: DriverParts): Promise<KvmVerdict> {
  return probeKvm({ ...parts, artifacts: built(parts), cachePath: kvmVerdictPath(parts.artifactsPath) });
}

/** Where the verdict on KVM is kept. */
export const kvmVerdictPath = (artifactsPath: string): string => join(dirname(artifactsPath), 'kvm.json');

function built({ artifacts, artifactsPath }: DriverParts): Artifacts {
  if (artifacts === null) throw new CocoreError('artifact_missing', `${artifactsPath} is needed by this driver`);
  return artifacts;
}
