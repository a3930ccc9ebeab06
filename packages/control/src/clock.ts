import { readFileSync } from 'node:fs';

export interface Clock {
  /** Milliseconds since the Unix epoch: record times. */
  readonly nowMs: () => number;
  /** Milliseconds since boot, with time in suspend: ages and leases. */
  readonly uptimeMs: () => number;
}

export const SYSTEM_CLOCK: Clock = {
  nowMs: Date.now,
  uptimeMs: () => Number.parseFloat(readFileSync('/proc/uptime', 'latin1')) * 1000,
};
