import { UidPool } from '../uid-pool.ts';

/** Ids of one sandbox: its root is `base` on the host, its other users follow. */
export interface IdRange extends AsyncDisposable {
  readonly base: number;
}

const IDS = 65_536;
const FIRST_UID = 200_000;
/** A range that neither distributions nor systemd hand out: 4,000 times 65,536 ids below 2^31. */
const FIRST_ID = 0x7000_0000;
const RANGES = 4_000;

/** Takes a range for each sandbox. Which ones are taken is the pool's knowledge, which all daemons of the host share. */
export class IdRanges {
  readonly #uids = new UidPool(FIRST_UID, RANGES);

  /** @throws CocoreError `host_unfit` when none is free */
  async take(): Promise<IdRange> {
    const taken = await this.#uids.take();
    const base = FIRST_ID + (taken.uid - FIRST_UID) * IDS;
    return { base, [Symbol.asyncDispose]: () => taken[Symbol.asyncDispose]() };
  }
}
