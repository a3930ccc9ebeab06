import { dirname, join } from 'node:path';
import { defaultArtifacts } from '../../src/config.ts';
import { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';

/** The snapshots that daemons of this host share: what an earlier test made serves the next. */
export const hostSnapshots = () =>
  new SnapshotStore({
    directory: join(dirname(defaultArtifacts(process.env)), 'snapshots'),
    budgetBytes: 2 ** 31,
  });
