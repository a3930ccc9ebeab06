import { Random } from './random.ts';

/**
 * What goes wrong, when, and for how long. A plan follows from its seed alone.
 */

/** How many workers there are; they are named by numbers from 0. */
export const WORKERS = 3;

/** Whose process or wire it is. The user's wire is the one between all users and the control server. */
export type Target = 'control' | 'user' | 'all' | number;

export type FaultKind =
  /** SIGKILL, and a new process after a while. */
  | 'kill'
  /** SIGTERM, and a new process after a while. */
  | 'restart'
  /** SIGSTOP, and SIGCONT after a while. */
  | 'stop'
  /** Every connection ends, and new ones are refused. */
  | 'cut'
  /** Nothing that is sent arrives, in either direction; connections stay open. */
  | 'silence'
  /** What the worker sends does not arrive. */
  | 'mute'
  /** What the control server sends does not arrive. */
  | 'deaf'
  /** The connection ends at one end only. */
  | 'half-open'
  /** A few kilobytes a second, and late. */
  | 'slow'
  /** The connection ends in the middle of a frame, and new ones are let through. */
  | 'tear'
  /** A second daemon with the worker's identity. */
  | 'twin'
  /** Every fsync fails with EIO. */
  | 'sync'
  /** Every write to a file fails with ENOSPC. */
  | 'full'
  /** The wall clock is wrong by hours. */
  | 'clock';

export interface Fault {
  readonly kind: FaultKind;
  readonly target: Target;
  /** From the beginning of the workload. */
  readonly atMs: number;
  readonly forMs: number;
  /** Of `half-open`: the end that sees it. */
  readonly end?: 'control' | 'worker';
  /** Of `slow`. */
  readonly bytesPerSecond?: number;
  /** Of `clock`. */
  readonly wallAheadMs?: number;
}

export interface Plan {
  readonly seed: number;
  /** How long users ask for executions. */
  readonly workMs: number;
  readonly executions: number;
  readonly faults: readonly Fault[];
}

export interface PlanOptions {
  readonly workMs?: number;
  readonly executions?: number;
  readonly kinds?: readonly FaultKind[];
}

/**
 * The sets that seeds choose from. A set that a seed of `seeds.json` names stays as it is, or the seed would be another plan; what is new makes
 * another set.
 */
export const KIND_SETS = {
  hosts: ['kill', 'restart', 'stop', 'cut', 'silence', 'mute', 'deaf', 'half-open', 'slow', 'tear'],
  disks: ['sync', 'full', 'clock', 'kill', 'stop', 'cut'],
  twins: ['twin', 'kill', 'restart', 'stop', 'cut'],
} as const satisfies Readonly<Record<string, readonly FaultKind[]>>;
export type KindSet = keyof typeof KIND_SETS;

export const ALL_KINDS: readonly FaultKind[] = [...new Set(Object.values(KIND_SETS).flat())];

/** From the first to the last, both ends with it. */
type Range = readonly [number, number];

/** Shorter than a worker's lease even with the beats and reconnections around it; longer than one by as much. */
const SHORT_MS: Range = [1_500, 12_000];
const LONG_MS: Range = [33_000, 36_000];
/** How long a process that was ended is away. */
const AWAY_MS: Range = [200, 4_000];
/** Between two faults of one target, so that two short ones do not make a long one. */
const PAUSE_MS = 9_000;
/** A long fault begins so early that the round is not much longer than it. */
const LONG_BEFORE_MS = 4_000;

const PROCESS_KINDS: ReadonlySet<FaultKind> = new Set(['kill', 'restart', 'stop']);

/** A fault without its time. */
type Draft = Omit<Fault, 'atMs'>;

function draft(random: Random, kind: FaultKind, isLong: boolean): Draft {
  const worker = random.int(0, WORKERS - 1);
  const outage = random.int(...(isLong ? LONG_MS : SHORT_MS));
  const base = { kind, target: worker, forMs: outage };
  switch (kind) {
    case 'kill':
      if (isLong) return base;
      return { kind, target: random.pick<Target>(['control', worker]), forMs: random.int(...AWAY_MS) };
    case 'restart':
      return { kind, target: random.pick<Target>(['control', worker]), forMs: random.int(...AWAY_MS) };
    case 'stop':
      return { ...base, target: random.pick<Target>(['control', worker]) };
    case 'cut':
      return { ...base, target: isLong ? worker : random.pick<Target>(['user', worker]) };
    case 'half-open':
      return { ...base, forMs: 0, end: random.pick(['control', 'worker'] as const) };
    case 'slow':
      return { ...base, bytesPerSecond: random.pick([2_000, 10_000, 50_000]) };
    case 'sync':
      return { ...base, target: random.pick<Target>(['control', worker]) };
    case 'full':
      // The ledger of the functions is on the workers' disks.
      return { ...base, target: 'control' };
    case 'clock': {
      const wallAheadMs = random.pick([-1, 1]) * random.int(1, 48) * 1_800_000;
      return { ...base, target: random.pick<Target>(['control', worker]), wallAheadMs };
    }
    case 'tear':
      return { ...base, target: random.pick<Target>(['user', worker]), forMs: 0 };
    default:
      return base;
  }
}

/** How far apart two faults must be; nothing where both may be at once. */
function pauseMs(one: Draft, other: Draft): number | null {
  if (one.target === other.target) return PAUSE_MS;
  return one.target === 'all' || other.target === 'all' ? 0 : null;
}

export function planOf(seed: number, options: PlanOptions = {}): Plan {
  const { workMs = 30_000, executions = 500, kinds = KIND_SETS.hosts } = options;
  const random = new Random(`plan/${seed}`);
  const faults: Fault[] = [];
  const place = (it: Draft, beforeMs: number): void => {
    for (let tries = 0; tries < 20; tries += 1) {
      const atMs = random.int(1_000, beforeMs);
      const isFree = faults.every((other) => {
        const pause = pauseMs(it, other);
        return pause === null || atMs > other.atMs + other.forMs + pause || atMs + it.forMs + pause < other.atMs;
      });
      if (!isFree) continue;
      faults.push({ ...it, atMs });
      return;
    }
  };
  const long = kinds.filter((kind) => ['kill', 'stop', 'cut', 'silence', 'mute', 'deaf'].includes(kind));
  if (long.length > 0 && random.chance(0.6)) place(draft(random, random.pick(long), true), LONG_BEFORE_MS);
  else if (kinds.includes('kill') && random.chance(0.5)) {
    place({ kind: 'kill', target: 'all', forMs: random.int(...AWAY_MS) }, workMs - 2_000);
  }
  const many = random.int(5, 9);
  for (let count = 0; count < many; count += 1) place(draft(random, random.pick(kinds), false), workMs - 2_000);
  faults.sort((one, other) => one.atMs - other.atMs);
  return { seed, workMs, executions, faults };
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

export function describeTarget(target: Target): string {
  return typeof target === 'number' ? `worker ${target}` : target;
}

/** One line a fault. */
export function describeFault({ kind, target, atMs, forMs, end, bytesPerSecond, wallAheadMs }: Fault): string {
  const what = `${kind.padEnd(9)}  ${describeTarget(target).padEnd(8)}`;
  const more = [
    forMs > 0 ? `${PROCESS_KINDS.has(kind) && kind !== 'stop' ? 'back after' : 'for'} ${seconds(forMs)}` : '',
    end === undefined ? '' : `seen by the ${end === 'control' ? 'control server' : 'worker'}`,
    bytesPerSecond === undefined ? '' : `${bytesPerSecond} bytes/s`,
    wallAheadMs === undefined ? '' : `by ${wallAheadMs / 3_600_000} h`,
  ].filter((part) => part !== '');
  return `${seconds(atMs).padStart(7)}  ${what}  ${more.join(', ')}`.trimEnd();
}

export function describePlan({ seed, workMs, executions, faults }: Plan): string {
  const head = `seed ${seed}: ${executions} executions in ${seconds(workMs)}, ${faults.length} faults`;
  return [head, ...faults.map(describeFault)].join('\n');
}
