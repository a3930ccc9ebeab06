import { Resolver } from 'node:dns/promises';

/** What a name leads to: IPv4 addresses as text, and for how long that holds. Empty when there are none. */
export interface Resolved {
  readonly addresses: readonly string[];
  readonly ttlSeconds: number;
}

/** @throws Error when nobody knows */
export type Resolve = (name: string) => Promise<Resolved>;

const TIMEOUT_MS = 3_000;
const TRIES = 2;
/** Of an answer that says no. */
const NOTHING_SECONDS = 30;

/**
 * Asks the host's name servers. Not by the C library: that takes one of the few threads that also serve this process's files, for as long as a name server
 * that a function has chosen keeps silent.
 */
export function hostResolve(): Resolve {
  const resolver = new Resolver({ timeout: TIMEOUT_MS, tries: TRIES });
  return async (name) => {
    try {
      const records = await resolver.resolve4(name, { ttl: true });
      const ttlSeconds = Math.min(...records.map(({ ttl }) => ttl));
      return { addresses: records.map(({ address }) => address), ttlSeconds };
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTFOUND' && code !== 'ENODATA') throw error;
      return { addresses: [], ttlSeconds: NOTHING_SECONDS };
    }
  };
}
