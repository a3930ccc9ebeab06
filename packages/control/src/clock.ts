import { readFileSync } from 'node:fs';

export interface Clock {
  /** Milliseconds since the Unix epoch: record times. */
  readonly nowMs: () => number;
  /** Milliseconds since boot, with time in suspend: ages and leases. Right to a tenth of a second. */
  readonly uptimeMs: () => number;
}

const UPTIME_VALID_MS = 50;

/** `/proc/uptime`, read at most every 50 ms. */
function cachedUptime(): () => number {
  let readAtMs = -Infinity;
  let uptimeMs = 0;
  return () => {
    const atMs = performance.now();
    if (atMs - readAtMs > UPTIME_VALID_MS) {
      uptimeMs = Number.parseFloat(readFileSync('/proc/uptime', 'latin1')) * 1000;
      readAtMs = atMs;
    }
    return uptimeMs;
  };
}

export const SYSTEM_CLOCK: Clock = { nowMs: Date.now, uptimeMs: cachedUptime() };
