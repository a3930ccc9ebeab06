import { CocoreError } from '@cocore/protocol';
import { type HostLock, takeHostLock } from '../host/lock.ts';

/** An unprivileged user id (and group id of the same number) that one live sandbox of this host has to itself. */
export interface SandboxUid extends AsyncDisposable {
  readonly uid: number;
  /** A process of the sandbox that inherits it keeps the id from others as long as it lives, with or without its daemon. */
  readonly lockFd: number;
}

/** Ids without an account, in the range that no distribution hands out by itself; shared by all daemons of the host. */
export class UidPool {
  readonly #first: number;
  readonly #count: number;

  constructor(first = 200_000, count = 4096) {
    this.#first = first;
    this.#count = count;
  }

  /** @throws CocoreError `host_unfit` when none is free */
  async take(): Promise<SandboxUid> {
    for (let uid = this.#first; uid < this.#first + this.#count; uid += 1) {
      const lock = await this.#lock(uid);
      if (lock !== null) return { uid, lockFd: lock.fd, [Symbol.asyncDispose]: () => lock[Symbol.asyncDispose]() };
    }
    throw new CocoreError('host_unfit', `no user id from ${this.#first} on is free for a sandbox`);
  }

  /** Whether it is one of these, and some process has it. */
  async isTaken(uid: number): Promise<boolean> {
    if (!(uid >= this.#first && uid < this.#first + this.#count)) return false;
    const lock = await this.#lock(uid);
    await lock?.[Symbol.asyncDispose]();
    return lock === null;
  }

  #lock(uid: number): Promise<HostLock | null> {
    return takeHostLock(`uid/${uid}`);
  }
}
