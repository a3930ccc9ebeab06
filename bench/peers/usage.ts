/** What processes and the disk have used, as Linux counts it. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { readlink } from 'node:fs/promises';

/** A second, in the unit that `/proc/PID/stat` counts CPU time in. */
const TICK_MS = 10;

interface Counted {
  readonly parent: number;
  readonly cpuMs: number;
}

function count(pid: string): Counted | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name before may have spaces in it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // Its own, and that of children which have ended.
    const ticks = [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0);
    return { parent: Number(fields[1]), cpuMs: ticks * TICK_MS };
  } catch {
    return null;
  }
}

/** All that this process has started and that live now, by id, and theirs. */
function descendants(): Map<number, Counted> {
  const all = new Map<number, Counted>();
  for (const name of readdirSync('/proc')) {
    const counted = /^\d+$/.test(name) ? count(name) : null;
    if (counted !== null) all.set(Number(name), counted);
  }
  const isOurs = (pid: number): boolean => {
    for (let at = all.get(pid); at !== undefined; at = all.get(at.parent)) if (at.parent === process.pid) return true;
    return false;
  };
  return new Map([...all].filter(([pid]) => isOurs(pid)));
}

/** User and system time of everything that this process has started and that lives. */
export const cpuMs = (): number => [...descendants().values()].reduce((sum, one) => sum + one.cpuMs, 0);

/** User and system time of one process, and of its children which have ended. */
export const cpuMsOf = (pid: number): number => count(String(pid))?.cpuMs ?? 0;

/** What one process has in memory now, in MiB; 0 when it has ended. */
export function residentMiB(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** The memory of all of them, in MiB, where what several share counts once; null where it may not be read. */
export function memoryMiB(): number | null {
  let kiB = 0;
  for (const pid of descendants().keys()) {
    try {
      kiB += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))?.[1] ?? 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EACCES') return null;
    }
  }
  return kiB / 1024;
}

/** The largest of what it was, looked at every so often until it is asked for. */
export function watchMemory(everyMs: number): () => number | null {
  let most: number | null = 0;
  const look = () => {
    const now = memoryMiB();
    most = now === null || most === null ? null : Math.max(most, now);
  };
  const timer = setInterval(look, everyMs);
  return () => {
    clearInterval(timer);
    look();
    return most;
  };
}

/** Counts the flushes that the disk under a directory was asked for; null where that is not told (Linux 5.5). */
export async function flushCounter(directory: string): Promise<(() => number) | null> {
  const { dev } = statSync(directory);
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const path = `/sys/dev/block/${major}:${minor}`;
  const isThere = await readlink(path).then(
    () => true,
    () => false,
  );
  if (!isThere) return null;
  // A partition's file does not tell of flushes: they are the whole disk's.
  const fields = () => {
    const own = readFileSync(`${path}/stat`, 'latin1').trim().split(/\s+/);
    return own.length >= 17 && Number(own[15]) > 0 ? own : wholeDisk(path);
  };
  if (fields() === null) return null;
  return () => Number(fields()![15]);
}

function wholeDisk(path: string): string[] | null {
  try {
    return readFileSync(`${path}/../stat`, 'latin1').trim().split(/\s+/);
  } catch {
    return null;
  }
}
