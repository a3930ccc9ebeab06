import type { Reason, RetryPolicy } from '@cocore/protocol';
import { Random } from '../faults/random.ts';

/** What is asked for, and what goes wrong, in one simulation: it follows from the seed alone. */
export interface Scenario {
  readonly seed: number;
  /** Nothing in it excuses an execution for another end than its own. */
  readonly isMild: boolean;
  readonly workers: number;
  readonly jobs: readonly Job[];
  readonly faults: readonly Fault[];
}

export interface Job {
  readonly number: number;
  readonly atMs: number;
  readonly args: readonly string[];
  readonly timeoutMs: number;
  readonly retries: RetryPolicy | null;
  /** What it writes to standard output when it is left alone: so many lines. */
  readonly lines: { readonly tag: string; readonly count: number };
  /** How it ends, and after how many attempts, when it is left alone. */
  readonly natural: {
    readonly state: 'success' | 'failure' | 'timeout';
    readonly reason: Reason | null;
    readonly attempts: number;
  };
  /** When its user asks for the cancellation, from the answer on; null for never. */
  readonly cancelsAfterMs: number | null;
  /** Its user asks twice at once, as one does whose first request seemed to be lost. */
  readonly asksTwice: boolean;
}

/** A worker by its number; a fault of the control server, or of its disk, has none. */
export type Fault = { readonly atMs: number; readonly forMs: number } & (
  | { readonly kind: 'kill' | 'freeze' | 'stop'; readonly worker: number | null }
  | { readonly kind: 'cut' | 'silence' | 'mute' | 'deaf'; readonly worker: number }
  | { readonly kind: 'reset'; readonly worker: number }
  | { readonly kind: 'halfClose'; readonly worker: number; readonly end: 'client' | 'server' }
  | { readonly kind: 'slow'; readonly worker: number; readonly latencyMs: number }
  | { readonly kind: 'clock'; readonly worker: number | null; readonly aheadMs: number }
  | { readonly kind: 'full' }
  /** This share of what the store is asked fails. */
  | { readonly kind: 'flaky'; readonly share: number }
  | { readonly kind: 'stall'; readonly commitMs: number }
);
export type FaultKind = Fault['kind'];

type Range = readonly [number, number];
/** Shorter than a lease, with the beats and reconnections around it. */
const SHORT_MS: Range = [300, 18_000];
/** Longer than a lease. */
const LONG_MS: Range = [31_000, 60_000];
/** Between two faults of a mild scenario, so that two short ones do not make a long one. */
const PAUSE_MS = 15_000;
const LONG_TIMEOUT_MS = 300_000;
/** Most of what goes wrong goes wrong at the beginning of something. */
const NEAR_MS = 1_500;

const MILD: readonly (readonly [number, FaultKind])[] = [
  [2, 'cut'],
  [3, 'silence'],
  [2, 'mute'],
  [3, 'deaf'],
  [3, 'reset'],
  [2, 'halfClose'],
  [2, 'slow'],
  [3, 'kill'],
  [3, 'freeze'],
  [1, 'clock'],
  [3, 'full'],
  [3, 'flaky'],
  [2, 'stall'],
];
const HARSH: readonly (readonly [number, FaultKind])[] = [
  ...MILD,
  [3, 'kill'],
  [2, 'stop'],
  [2, 'silence'],
  [2, 'freeze'],
];
/** What may meet a disk that takes nothing, and is mild all the same. */
const BESIDE_FULL: readonly (readonly [number, FaultKind])[] = [
  [2, 'cut'],
  [2, 'reset'],
  [1, 'halfClose'],
  [1, 'kill'],
];

export function scenarioOf(seed: number): Scenario {
  const random = new Random(`simulation/${seed}`);
  const isMild = random.chance(0.6);
  const workers = random.int(1, 3);
  const faults = isMild ? mildFaults(random, workers) : harshFaults(random, workers);
  faults.sort((one, other) => one.atMs - other.atMs);
  const workMs = Math.max(5_000, ...faults.map(({ atMs }) => atMs + 2_000));
  const jobs = Array.from({ length: random.int(1, 12) }, (_, number) => {
    const near = random.pick(faults);
    const atMs = random.chance(0.6)
      ? Math.max(0, near.atMs + random.int(-NEAR_MS, NEAR_MS / 3))
      : random.int(0, workMs);
    return jobOf(random, seed, number, atMs);
  });
  return { seed, isMild, workers, jobs, faults };
}

/** One after the other. */
function mildFaults(random: Random, workers: number): Fault[] {
  const faults: Fault[] = [];
  let atMs = 0;
  for (let count = random.int(1, 4); count > 0; count -= 1) {
    atMs += random.int(500, 20_000);
    const fault = faultOf(random, random.weighted(MILD), true, workers, atMs);
    faults.push(fault);
    let overMs = atMs + fault.forMs;
    if (fault.kind === 'full' && random.chance(0.7)) {
      const beside = faultOf(random, random.weighted(BESIDE_FULL), true, workers, atMs + random.int(0, fault.forMs));
      faults.push(beside);
      overMs = Math.max(overMs, beside.atMs + beside.forMs);
    }
    atMs = overMs + PAUSE_MS;
  }
  return faults;
}

/** Whatever, whenever. */
function harshFaults(random: Random, workers: number): Fault[] {
  return Array.from({ length: random.int(1, 6) }, () =>
    faultOf(random, random.weighted(HARSH), false, workers, random.int(0, 60_000)),
  );
}

function jobOf(random: Random, seed: number, number: number, atMs: number): Job {
  const tag = `${seed}.${number}`;
  return {
    number,
    atMs,
    retries: null,
    timeoutMs: LONG_TIMEOUT_MS,
    ...bodyOf(random, tag),
    cancelsAfterMs: random.chance(0.15) ? random.int(0, 15_000) : null,
    asksTwice: random.chance(0.1),
  };
}

type Body = Pick<Job, 'args' | 'lines' | 'natural'> & Partial<Pick<Job, 'timeoutMs' | 'retries'>>;

const ends = (state: 'success' | 'failure' | 'timeout', reason: Reason | null = null, attempts = 1) => ({
  state,
  reason,
  attempts,
});

function bodyOf(random: Random, tag: string): Body {
  const writes = (count: number, pauseMs: number, ...then: string[]) => ({
    args: [`lines:${tag}:${count}:${pauseMs}`, 'effect:done', ...then],
    lines: { tag, count },
  });
  switch (
    random.pick([
      'quick',
      'quick',
      'steady',
      'steady',
      'long',
      'failing',
      'overtime',
      'patient',
      'oom',
      'vanish',
      'retried',
    ])
  ) {
    case 'quick':
      return { ...writes(random.int(1, 20), 0), natural: ends('success') };
    case 'steady':
      return { ...writes(random.int(5, 20), random.int(100, 2_000)), natural: ends('success') };
    case 'long':
      return { ...writes(random.int(1, 5), random.int(5_000, 20_000)), natural: ends('success') };
    case 'tight': {
      // Well within its own time, and not by much.
      const [count, pauseMs] = [random.int(3, 10), random.int(300, 1_000)];
      return { ...writes(count, pauseMs), timeoutMs: count * pauseMs + 1_500, natural: ends('success') };
    }
    case 'failing':
      return {
        ...writes(random.int(1, 20), random.int(0, 300), `exit:${random.int(1, 99)}`),
        natural: ends('failure', 'exit_code'),
      };
    case 'overtime':
      return {
        ...writes(random.int(1, 10), 0, 'sleep:6000000'),
        timeoutMs: random.int(1_000, 30_000),
        natural: ends('timeout', 'run_timeout'),
      };
    case 'patient':
      // Takes its time when it is asked to stop.
      return {
        args: [
          `trap:${random.int(0, 12_000)}`,
          `lines:${tag}:5:0`,
          `sleep:${random.int(1_000, 20_000)}`,
          'effect:done',
        ],
        lines: { tag, count: 5 },
        natural: ends('success'),
      };
    case 'oom':
      return { ...writes(random.int(1, 5), 50, 'oom'), natural: ends('failure', 'oom') };
    case 'vanish':
      return { ...writes(random.int(1, 5), 50, 'vanish'), natural: ends('failure', 'agent_lost') };
    default: {
      const max = random.int(1, 2);
      const retries: RetryPolicy = { max, on: ['exit_code'], backoffMs: random.int(100, 5_000) };
      return {
        ...writes(random.int(1, 5), random.int(0, 200), 'exit:7'),
        retries,
        natural: ends('failure', 'exit_code', max + 1),
      };
    }
  }
}

function faultOf(random: Random, kind: FaultKind, isMild: boolean, workers: number, atMs: number): Fault {
  const worker = random.int(0, workers - 1);
  const short = random.int(...SHORT_MS);
  const forMs = isMild || random.chance(0.5) ? short : random.int(...LONG_MS);
  const anywhere = random.chance(0.5) ? null : worker;
  // A control server may be away for as long as it likes.
  const awayMs = random.chance(0.5) ? random.int(100, 4_000) : random.int(...LONG_MS);
  switch (kind) {
    case 'kill':
      // A worker that is killed loses what it runs.
      return { kind, atMs, worker: isMild ? null : anywhere, forMs: awayMs };
    case 'stop':
      return { kind, atMs, worker, forMs: random.int(5_000, 40_000) };
    case 'freeze':
      return anywhere === null
        ? { kind, atMs, worker: null, forMs: random.chance(0.5) ? short : random.int(...LONG_MS) }
        : { kind, atMs, worker, forMs };
    case 'cut':
    case 'silence':
    case 'mute':
    case 'deaf':
      return { kind, atMs, worker, forMs };
    case 'reset':
      return { kind, atMs, worker, forMs: 0 };
    case 'halfClose':
      return { kind, atMs, worker, forMs: 0, end: random.pick(['client', 'server'] as const) };
    case 'slow':
      return { kind, atMs, worker, forMs, latencyMs: random.int(50, 2_000) };
    case 'clock': {
      const aheadMs = random.pick([-1, 1]) * random.int(1, 40) * 1_800_000;
      return { kind, atMs, worker: anywhere, forMs, aheadMs };
    }
    case 'full':
      return { kind, atMs, forMs: random.int(500, 60_000) };
    case 'flaky':
      return { kind, atMs, forMs, share: random.pick([0.1, 0.3, 0.6]) };
    case 'stall':
      return { kind, atMs, forMs, commitMs: random.int(50, 3_000) };
  }
}

/** One line a fault. */
export function describe({ atMs, forMs, kind, ...more }: Fault): string {
  const details = Object.entries(more).map(([name, value]) => `${name} ${value}`);
  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  return [`${kind} at ${seconds(atMs)}`, ...(forMs > 0 ? [`for ${seconds(forMs)}`] : []), ...details].join(', ');
}
