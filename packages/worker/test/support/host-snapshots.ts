import { dirname, join } from 'node:path';
import { defaultArtifacts } from '../../src/config.ts';
import { SnapshotStore, type SnapshotStoreOptions } from '../../src/sandbox/microvm/snapshot-store.ts';

/** The snapshots that daemons of this host share: what an earlier test made serves the next. */
export const HOST_SNAPSHOTS: SnapshotStoreOptions = {
  directory: join(dirname(defaultArtifacts(process.env)), 'snapshots'),
  budgetBytes: 2 ** 31,
};

export const hostSnapshots = () => new SnapshotStore(HOST_SNAPSHOTS);
