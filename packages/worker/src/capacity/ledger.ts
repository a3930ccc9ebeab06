/** What a host leases, or what one attempt takes of it. */
export interface Share {
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

/**
 * Which attempts hold which share of the lease. It is final: the control server's picture may lag, and then an
 * assignment that does not fit is refused.
 */
export class CapacityLedger {
  readonly lease: Share;
  readonly #held = new Map<string, Share>();

  constructor(lease: Share) {
    this.lease = lease;
  }

  /** Takes the share for `holder` when all of it fits; takes nothing otherwise. A holder is admitted once. */
  admit(holder: string, share: Share): boolean {
    if (this.#held.has(holder)) return false;
    const used = this.used();
    const fits =
      used.cpus + share.cpus <= this.lease.cpus &&
      used.memoryMiB + share.memoryMiB <= this.lease.memoryMiB &&
      used.diskMiB + share.diskMiB <= this.lease.diskMiB;
    if (fits) this.#held.set(holder, share);
    return fits;
  }

  /** Gives back what `holder` has; nothing when it has none. */
  release(holder: string): void {
    this.#held.delete(holder);
  }

  used(): Share {
    let [cpus, memoryMiB, diskMiB] = [0, 0, 0];
    for (const share of this.#held.values()) {
      cpus += share.cpus;
      memoryMiB += share.memoryMiB;
      diskMiB += share.diskMiB;
    }
    return { cpus, memoryMiB, diskMiB };
  }
}
