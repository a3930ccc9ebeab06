import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Logger } from 'pino';
import type { SandboxNetwork } from '../driver.ts';
import type { Artifacts } from '../microvm/artifacts.ts';
import { ShapeSnapshots } from '../microvm/shape-snapshots.ts';
import { commonKey } from '../microvm/snapshot-key.ts';
import type { SnapshotStore } from '../microvm/snapshot-store.ts';
import type { QemuLauncher } from './launcher.ts';
import { makeTemplate, SNAPSHOT_FILE } from './template.ts';

export interface QemuSnapshotsOptions {
  readonly store: SnapshotStore;
  readonly launcher: QemuLauncher;
  readonly artifacts: Artifacts;
  /** What a machine with a network card is attached to while its snapshot is made. */
  readonly wire: SandboxNetwork | null;
  readonly bootDeadlineMs: number;
  readonly log?: Logger | undefined;
}

/** The snapshots of QEMU on this host. */
export async function qemuSnapshots(options: QemuSnapshotsOptions): Promise<ShapeSnapshots> {
  const { store, launcher, artifacts, wire, bootDeadlineMs, log } = options;
  const { stdout: version } = await promisify(execFile)(artifacts.qemu, ['--version']);
  const common = await commonKey(artifacts, version.split('\n')[0]!);
  return new ShapeSnapshots({
    store,
    fileNames: [SNAPSHOT_FILE],
    keyOf: ({ memoryMiB, cpus, hasNetwork }) => {
      // Scratch is no part of it: drives are placeholders in a snapshot.
      const command = launcher.command(
        { memoryMiB, cpus, scratchMiB: 0 },
        { drives: 'placeholders', hasNetwork, restore: false },
      );
      return { ...common, memoryMiB, cpus, command: command.join('\n') };
    },
    make: (name, shape, directory, signal) =>
      makeTemplate({
        launcher,
        name,
        shape,
        network: shape.hasNetwork ? wire : null,
        directory,
        bootDeadlineMs,
        signal,
      }),
    bootDeadlineMs,
    log,
  });
}
