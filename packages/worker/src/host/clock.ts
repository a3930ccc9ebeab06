import { openSync, readSync } from 'node:fs';

/** Milliseconds since an arbitrary moment, never going back. */
export type Clock = () => number;

/** Stands still while the host is suspended: for what only runs while the host runs, such as a guest. */
export const awakeClock: Clock = () => performance.now();

/** The file is that fine. */
const UPTIME_STEP_MS = 10;
const digits = Buffer.alloc(64);
/** By path, so that all see the same time. */
const uptimeClocks = new Map<string, Clock>();

/**
 * Counts the time that the host was suspended; 10 ms fine. Node's own monotonic clock does not, and goes at the same rate otherwise. So the file is
 * read for what is between the two, which is at most 10 ms of wakefulness old: a suspend is seen no later than by who looks that much later.
 */
export function uptimeClock(path = '/proc/uptime', awake: Clock = awakeClock): Clock {
  const known = uptimeClocks.get(path);
  if (known !== undefined) return known;
  const file = openSync(path, 'r');
  let suspendedMs = -Infinity;
  let readAtMs = -Infinity;
  const clock = () => {
    let awakeMs = awake();
    if (awakeMs - readAtMs >= UPTIME_STEP_MS) {
      const length = readSync(file, digits, 0, digits.length, 0);
      const uptimeMs = Number.parseFloat(digits.toString('latin1', 0, length)) * 1000;
      // After the file, so that what passes between the two is not counted twice. The file is up to a step behind.
      awakeMs = readAtMs = awake();
      suspendedMs = Math.max(suspendedMs, uptimeMs - awakeMs);
    }
    return awakeMs + suspendedMs;
  };
  uptimeClocks.set(path, clock);
  return clock;
}

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
