import { EgressNetwork } from '../../src/network/egress.ts';
import type { NetworkOf } from '../../src/network/networks.ts';
import { UidPool } from '../../src/sandbox/uid-pool.ts';
import { silent } from './run-program.ts';

/** Networks for sandboxes of the fake driver, which attaches them to nothing. */
export const LOOSE_NETWORKS = {
  make: (of: NetworkOf) =>
    Promise.resolve(
      new EgressNetwork({
        ...of,
        directory: '/nonexistent',
        uids: new UidPool(),
        resolve: () => Promise.reject(new Error('nobody asks')),
        isClosed: () => true,
        proxy: null,
        log: silent,
      }),
    ),
};
