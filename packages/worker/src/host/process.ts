import { readFileSync } from 'node:fs';

/** A process of this host, by its number and by when it began: a number alone may be another's by now. */
export interface ProcessMark {
  readonly pid: number;
  /** By the kernel's clock, in its ticks since the host's start. */
  readonly startTicks: number;
}

/** Null when there is none, or it has ended and nobody has asked how. */
export function markOf(pid: number): ProcessMark | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return null;
  }
  // A program's name may hold anything; what comes after it does not.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  const startTicks = Number(fields[19]);
  return state === 'Z' || state === 'X' || !Number.isSafeInteger(startTicks) ? null : { pid, startTicks };
}

export function isRunning({ pid, startTicks }: ProcessMark): boolean {
  return markOf(pid)?.startTicks === startTicks;
}

/** Real user ids of processes; those that have ended are left out. */
export function userIdsOf(pids: readonly number[]): number[] {
  return pids.flatMap((pid) => {
    try {
      const real = /^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
      return real === undefined ? [] : [Number(real)];
    } catch {
      return [];
    }
  });
}
