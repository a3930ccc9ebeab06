import { createHash } from 'node:crypto';
import type { Reason } from '@cocore/protocol';
import { Random } from './random.ts';

/**
 * What users ask for: executions that the fake driver plays, whose output and effects are known before. They follow from the seed.
 */
export interface Job {
  readonly number: number;
  /** From the beginning of the workload. */
  readonly atMs: number;
  readonly idempotencyKey: string;
  readonly args: readonly string[];
  readonly timeoutMs: number;
  /** What it writes to standard output when it is left alone: so many lines. */
  readonly lines: { readonly tag: string; readonly count: number };
  /** How it ends when it is left alone. */
  readonly natural: { readonly state: 'success' | 'failure' | 'timeout'; readonly reason: Reason | null };
  readonly user: User;
}

export interface User {
  /** Follows the events from the beginning; else waits for the end. */
  readonly follows: boolean;
  /** When it asks for the cancellation, from the answer on; null for never. */
  readonly cancelsAfterMs: number | null;
  /** Asks twice at once, as a user does whose first request seemed to be lost. */
  readonly asksTwice: boolean;
}

/** The effect that a function has before its end. */
export const DONE = 'done';

const LONG_TIMEOUT_MS = 120_000;

/** The fake driver's own lines, made anew here: what is compared was not written by what is tested. */
const lineOf = (tag: string, number: number): string =>
  `${number} ${createHash('sha256').update(`${tag}/${number}`).digest('hex').slice(0, 16)}\n`;

export function textOf({ tag, count }: Job['lines']): string {
  return Array.from({ length: count }, (_, at) => lineOf(tag, at + 1)).join('');
}

type Kind = 'quick' | 'steady' | 'long' | 'bulk' | 'failing' | 'tight' | 'overtime';

const KINDS: readonly (readonly [number, Kind])[] = [
  [55, 'quick'],
  [20, 'steady'],
  [7, 'long'],
  [4, 'bulk'],
  [6, 'failing'],
  [4, 'tight'],
  [4, 'overtime'],
];

const SUCCESS = { state: 'success', reason: null } as const;

/** Its steps and what follows from them. */
function body(random: Random, tag: string): Pick<Job, 'args' | 'timeoutMs' | 'lines' | 'natural'> {
  const writes = (count: number, pauseMs: number) => ({
    args: [`lines:${tag}:${count}:${pauseMs}`, `effect:${DONE}`],
    lines: { tag, count },
  });
  const kind = random.weighted(KINDS);
  switch (kind) {
    case 'quick':
      return { ...writes(random.int(1, 20), 0), timeoutMs: LONG_TIMEOUT_MS, natural: SUCCESS };
    case 'steady':
      return { ...writes(random.int(5, 30), random.int(10, 40)), timeoutMs: LONG_TIMEOUT_MS, natural: SUCCESS };
    case 'long':
      return { ...writes(random.int(30, 60), 100), timeoutMs: LONG_TIMEOUT_MS, natural: SUCCESS };
    case 'bulk':
      return { ...writes(random.int(2_000, 15_000), 0), timeoutMs: LONG_TIMEOUT_MS, natural: SUCCESS };
    case 'failing': {
      const { args, lines } = writes(random.int(1, 20), random.int(0, 20));
      const natural = { state: 'failure', reason: 'exit_code' } as const;
      return { args: [...args, `exit:${random.int(1, 99)}`], lines, timeoutMs: LONG_TIMEOUT_MS, natural };
    }
    case 'tight':
      // Well within its own time, and not much longer than the shortest outage.
      return { ...writes(random.int(10, 20), 100), timeoutMs: random.int(5_000, 8_000), natural: SUCCESS };
    case 'overtime': {
      const { args, lines } = writes(random.int(1, 10), 0);
      const natural = { state: 'timeout', reason: 'run_timeout' } as const;
      return { args: [args[0]!, 'sleep:600000'], lines, timeoutMs: random.int(1_000, 4_000), natural };
    }
  }
}

export function jobsOf(seed: number, count: number, workMs: number): readonly Job[] {
  const root = new Random(`jobs/${seed}`);
  const times = Array.from({ length: count }, () => root.int(0, workMs)).sort((one, other) => one - other);
  return times.map((atMs, number) => {
    const random = root.branch(String(number));
    const tag = `${seed}.${number}`;
    return {
      number,
      atMs,
      idempotencyKey: `faults/${tag}`,
      ...body(random, tag),
      user: {
        follows: random.chance(0.25),
        cancelsAfterMs: random.chance(0.12) ? random.int(0, 3_000) : null,
        asksTwice: random.chance(0.1),
      },
    };
  });
}
