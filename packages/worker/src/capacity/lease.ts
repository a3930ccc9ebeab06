import { CocoreError } from '@cocore/protocol';
import type { Share } from './ledger.ts';

/** What the owner asked to lease; what is absent is half of what is free. */
export interface LeaseWish {
  readonly cpus?: number | undefined;
  readonly memoryMiB?: number | undefined;
  readonly diskMiB?: number | undefined;
}

export interface HostResources {
  /** What the host has at all. */
  readonly total: Share;
  /** What nobody uses now. */
  readonly free: Share;
}

const WHAT = { cpus: 'CPUs', memoryMiB: 'MiB of memory', diskMiB: 'MiB of disk' } as const;
const FLAG = { cpus: '--cpus', memoryMiB: '--memory', diskMiB: '--disk' } as const;

/**
 * What the daemon leases.
 *
 * @throws CocoreError `limit_exceeded` when the wish is more than the host has
 */
export function leaseOf(wish: LeaseWish, host: HostResources): Share {
  const choose = (key: keyof Share): number => {
    const wanted = wish[key];
    if (wanted === undefined) return Math.max(1, Math.floor(host.free[key] / 2));
    if (wanted > host.total[key]) {
      throw new CocoreError(
        'limit_exceeded',
        `${FLAG[key]} ${wanted} is more than this host has: ${host.total[key]} ${WHAT[key]}`,
      );
    }
    return wanted;
  };
  return { cpus: choose('cpus'), memoryMiB: choose('memoryMiB'), diskMiB: choose('diskMiB') };
}
