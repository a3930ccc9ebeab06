import { openSync, readSync } from 'node:fs';

/** Milliseconds since an arbitrary moment, never going back. */
export type Clock = () => number;

/** By path. Kept open: a look at the clock is one call of the system then, not four. */
const uptimeFiles = new Map<string, number>();
const digits = Buffer.alloc(64);

/** Counts the time that the host was suspended; 10 ms fine. Node's own monotonic clock does not. */
export function uptimeClock(path = '/proc/uptime'): Clock {
  const file = uptimeFiles.get(path) ?? openSync(path, 'r');
  uptimeFiles.set(path, file);
  return () => {
    const length = readSync(file, digits, 0, digits.length, 0);
    return Number.parseFloat(digits.toString('latin1', 0, length)) * 1000;
  };
}

/** Stands still while the host is suspended: for what only runs while the host runs, such as a guest. */
export const awakeClock: Clock = () => performance.now();

/** As `awakeClock`, from the same moment for all processes of one life of the host. */
export const hostClock: Clock = () => Number(process.hrtime.bigint()) / 1e6;

/** How often a deadline looks at its clock at least, so that one which passed during a suspend is seen soon after. */
const LOOK_MS = 500;

/**
 * Calls `passed` once, when `clock` has advanced by `durationMs`. Disposing it before cancels it.
 */
export function deadline(durationMs: number, passed: () => void, clock: Clock = uptimeClock()): Disposable {
  const due = clock() + durationMs;
  let timer: NodeJS.Timeout;
  const arm = () => {
    // A 10 ms clock may read up to 10 ms early.
    const leftMs = due - clock();
    if (leftMs <= 0) passed();
    else timer = setTimeout(arm, Math.min(Math.ceil(leftMs), LOOK_MS));
  };
  timer = setTimeout(arm, Math.min(durationMs, LOOK_MS));
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}
