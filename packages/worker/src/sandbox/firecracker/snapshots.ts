import type { Logger } from 'pino';
import type { SandboxShape } from '../driver.ts';
import { ShapeSnapshots } from '../microvm/shape-snapshots.ts';
import { commonKey, digestOf } from '../microvm/snapshot-key.ts';
import type { SnapshotStore } from '../microvm/snapshot-store.ts';
import type { Furniture } from './jail.ts';
import type { FirecrackerLauncher, Launch } from './launcher.ts';
import { BOOT_ARGS, type DeviceRate, drives, serialDevice } from './machine.ts';
import { makeTemplate, SNAPSHOT_FILES } from './template.ts';
import type { Version } from './tools.ts';

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
  /** Boots a machine of the shape. */
  readonly bootOf: (shape: SandboxShape) => Launch['configure'];
  readonly bootDeadlineMs: number;
  readonly log?: Logger | undefined;
}

/** For the one call that writes a whole machine to disk. */
const WRITE_DEADLINE_MS = 60_000;

/** The snapshots of Firecracker on this host. */
export async function firecrackerSnapshots(options: FirecrackerSnapshotsOptions): Promise<ShapeSnapshots> {
  const { store, launcher, artifacts, version, execFile, driveRate, binds, bootOf, bootDeadlineMs, log } = options;
  // A version may be built more than once.
  const common = await commonKey(artifacts, `Firecracker ${version.text} ${await digestOf(execFile)}`);
  const machine = JSON.stringify([BOOT_ARGS, drives(driveRate), serialDevice]);
  return new ShapeSnapshots({
    store,
    fileNames: SNAPSHOT_FILES,
    // Scratch is no part of it: drives are placeholders in a snapshot.
    keyOf: ({ memoryMiB, cpus }) => ({ ...common, memoryMiB, cpus, machine }),
    make: (name, shape, directory, signal) =>
      makeTemplate({
        launcher,
        name,
        shape,
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
