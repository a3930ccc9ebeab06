import type { Logger } from 'pino';
import type { SandboxNetwork } from '../driver.ts';
import { type MachineShape, ShapeSnapshots } from '../microvm/shape-snapshots.ts';
import { commonKey, digestOf } from '../microvm/snapshot-key.ts';
import type { SnapshotStore } from '../microvm/snapshot-store.ts';
import type { Furniture } from './jail.ts';
import type { FirecrackerLauncher, Launch } from './launcher.ts';
import { BOOT_ARGS, type DeviceRate, drives, networkCard, serialDevice } from './machine.ts';
import { makeTemplate, SNAPSHOT_FILES } from './template.ts';
import type { Version } from './tools.ts';

/** How a machine of the shape boots. */
export type BootOf = (shape: MachineShape) => Launch['configure'];

export interface FirecrackerSnapshotsOptions {
  readonly store: SnapshotStore;
  readonly launcher: FirecrackerLauncher;
  readonly artifacts: { readonly kernel: string; readonly initrd: string };
  /** Of the Firecracker at `execFile`. */
  readonly version: Version;
  readonly execFile: string;
  readonly driveRate: DeviceRate;
  /** What the monitor of a template sees of the host beside what it writes. */
  readonly binds: Furniture['binds'];
  /** What a machine with a network card is attached to while its snapshot is made. */
  readonly wire: SandboxNetwork | null;
  readonly bootOf: BootOf;
  readonly bootDeadlineMs: number;
  readonly log?: Logger | undefined;
}

/** For the one call that writes a whole machine to disk. */
const WRITE_DEADLINE_MS = 60_000;

/** The snapshots of Firecracker on this host. */
export async function firecrackerSnapshots(options: FirecrackerSnapshotsOptions): Promise<ShapeSnapshots> {
  const { store, launcher, artifacts, version, execFile, driveRate, binds, wire, bootOf, bootDeadlineMs, log } =
    options;
  // A version may be built more than once.
  const common = await commonKey(artifacts, `Firecracker ${version.text} ${await digestOf(execFile)}`);
  const devices = [BOOT_ARGS, drives(driveRate), serialDevice];
  return new ShapeSnapshots({
    store,
    fileNames: SNAPSHOT_FILES,
    // Scratch is no part of it: drives are placeholders in a snapshot.
    keyOf: ({ memoryMiB, cpus, hasNetwork }) => {
      const machine = JSON.stringify(hasNetwork ? [...devices, networkCard] : devices);
      return { ...common, memoryMiB, cpus, machine };
    },
    make: (name, shape, directory, signal) =>
      makeTemplate({
        launcher,
        name,
        shape,
        network: shape.hasNetwork ? wire : null,
        directory,
        boot: bootOf(shape),
        binds,
        deadlineMs: WRITE_DEADLINE_MS,
        signal,
      }),
    bootDeadlineMs,
    log,
  });
}
