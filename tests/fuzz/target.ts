import { Random } from '../faults/random.ts';

/** One reader of what another trust zone writes, and what must be true of it for any input. */
export interface Target<Input = unknown> {
  readonly name: string;
  /** Inputs that were findings once, or are hard to come by; they are played before the made ones. */
  readonly corpus: readonly Input[];
  /** Decided by the random numbers alone. */
  make(random: Random): Input;
  /** @throws what it finds */
  check(input: Input): void | Promise<void>;
}

/** A target that needs something that runs. */
export interface LiveTarget<Input = unknown> extends Target<Input>, AsyncDisposable {
  /** What must be true after all of them. @throws what it finds */
  finish(): Promise<void>;
}

/** In processor time: far more than any reader needs for what it is given here, and far less than one that goes through it again for each byte. */
const DEFAULT_MAX_CPU_MS = 1000;
const MAX_SHOWN = 600;

export interface Finding {
  readonly target: string;
  /** `corpus 3`, or `seed 1 case 204`. */
  readonly where: string;
  readonly error: unknown;
  readonly input: string;
}

export interface Play {
  readonly seed: string;
  /** From this case on. */
  readonly from?: number;
  readonly cases: number;
  /** By `performance.now()`: no case begins after it. */
  readonly untilMs?: number;
  readonly maxCpuMs?: number;
}

/** Plays the corpus and then so many cases, up to the first finding. */
export async function play(
  target: Target,
  { seed, from = 0, cases, untilMs = Infinity, maxCpuMs = DEFAULT_MAX_CPU_MS }: Play,
): Promise<Finding | null> {
  for (const [at, input] of target.corpus.entries()) {
    const error = await judge(target, input, maxCpuMs);
    if (error !== null) return { target: target.name, where: `corpus ${at}`, ...error, input: show(input) };
  }
  for (let number = from; number < from + cases && performance.now() < untilMs; number += 1) {
    const input = target.make(new Random(`${seed}/${target.name}/${number}`));
    const error = await judge(target, input, maxCpuMs);
    if (error === null) continue;
    return { target: target.name, where: `seed ${seed} case ${number}`, ...error, input: show(input) };
  }
  return null;
}

async function judge(target: Target, input: unknown, maxCpuMs: number): Promise<{ error: unknown } | null> {
  const before = process.cpuUsage();
  try {
    const judged = target.check(input);
    if (judged instanceof Promise) await judged;
  } catch (error) {
    return { error };
  }
  const { user, system } = process.cpuUsage(before);
  const ms = (user + system) / 1000;
  return ms > maxCpuMs ? { error: new Error(`it took ${Math.round(ms)} ms of the processor`) } : null;
}

export function tell({ target, where, error, input }: Finding): string {
  const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return `${target}, ${where}: ${what}\n  input: ${input}`;
}

function show(input: unknown): string {
  const text = JSON.stringify(input, (_, value: unknown) =>
    value instanceof Uint8Array ? `base64:${Buffer.from(value.subarray(0, MAX_SHOWN)).toString('base64')}` : value,
  );
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)}… (${text.length} characters)`;
}
