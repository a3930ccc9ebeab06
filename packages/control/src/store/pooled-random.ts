import { randomFillSync } from 'node:crypto';

/** Random bytes from a pool: asking the system for ten bytes costs as much as for a page of them. */
export function pooledRandom(): (bytes: number) => Uint8Array {
  const pool = new Uint8Array(4096);
  let at = pool.length;
  return (bytes) => {
    if (at + bytes > pool.length) {
      randomFillSync(pool);
      at = 0;
    }
    at += bytes;
    return pool.slice(at - bytes, at);
  };
}
