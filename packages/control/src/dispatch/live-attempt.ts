import type { AttemptState, BlobRef, Capabilities, ServerMessage, StopKind } from '@cocore/protocol';
import type { Clock } from '../clock.ts';
import type { OutputWriter } from '../output/output-store.ts';
import type { Beat } from '../store/store.ts';
import type { Placeable } from './placeable.ts';

/** How a worker stops, and since when by the store's clock. */
export interface Stopping {
  readonly how: StopKind;
  readonly sinceMs: number;
}

/** A worker's open session, as those who send to it see it. */
export interface WorkerLink {
  readonly workerId: string;
  readonly sessionId: string;
  readonly capabilities: Capabilities;
  /** By the store's clock. */
  readonly lastBeatAtMs: number;
  /** It has sent more than this server works off: what it said of late is not read yet. */
  readonly isBehind: boolean;
  /** It takes nothing more, by its owner's will; null where it does. */
  readonly stopping: Stopping | null;
  /** What it was sent and the network has not taken. */
  readonly unsentBytes: number;
  /** What the network has taken in all. */
  readonly leftBytes: number;
  /** @param sent is called when the network has taken it, unless the session ends before */
  send(message: ServerMessage, sent?: () => void): void;
  /** Gives the attempt a channel number in this session. */
  bind(attempt: LiveAttempt): number;
  unbind(attempt: LiveAttempt): void;
  /** Ends it for a reason that is the worker's to know. */
  close(code: number, reason: string): void;
  /** Ends it at once, without a word: its worker takes none. */
  cut(): void;
}

/**
 * An attempt that is committed to a worker, from assignment to end, as this server holds it. What must survive is in the store; this
 * is what the store would be asked for too often.
 */
export interface LiveAttempt extends Placeable {
  readonly workerId: string;
  readonly writer: OutputWriter;
  readonly timeoutMs: number;
  state: Exclude<AttemptState, 'queued' | 'ended'>;
  /** In which its worker has it, as far as this server knows. */
  sessionId: string;
  /** Null while its worker has no session. */
  link: WorkerLink | null;
  /** Its worker may have heard of it: its assignment has left this server. */
  isSent: boolean;
  /** By the uptime clock; since when its worker has it in this session: assigned and sent, or resumed. */
  linkedUptimeMs: number;
  /** By the uptime clock: the claim's deadline passed and the worker was told to drop it. */
  revokedUptimeMs: number | null;
  /** By the uptime clock, which nobody sets; null before acceptance. */
  deadlineUptimeMs: number | null;
  /** By the uptime clock. */
  cancelRequestedUptimeMs: number | null;
  beat: Beat | null;
  /** What its worker fetches for it, as that said last; null for nothing. */
  fetching: BlobRef | null;
  /** How often its worker said that it ended and had not sent all of its output. */
  incompleteEnds: number;
  /** How often what its worker said of it broke the contract. */
  faults: number;
  /** How many beats of its worker in a row have not named it. */
  missedBeats: number;
  /** What its worker has said of it and is not worked off. */
  underWay: number;
  /** No longer live: whatever is still under way about it is dropped. */
  over: boolean;
}

/** What a live attempt begins with. */
export const NOTHING_HEARD = {
  beat: null,
  fetching: null,
  incompleteEnds: 0,
  faults: 0,
  missedBeats: 0,
  underWay: 0,
  over: false,
} as const;

/** @param deadlineAtMs by the store's clock @param limitMs at most so long from now, whatever the time of day was set to meanwhile */
export function deadlineUptimeMs(clock: Clock, deadlineAtMs: number, limitMs: number): number {
  return clock.uptimeMs() + Math.min(Math.max(0, deadlineAtMs - clock.nowMs()), limitMs);
}

/** The live attempts of this server, by id and by worker. */
export class LiveAttempts implements Iterable<LiveAttempt> {
  readonly #byId = new Map<string, LiveAttempt>();
  readonly #byWorker = new Map<string, Set<LiveAttempt>>();

  get size(): number {
    return this.#byId.size;
  }

  get(attemptId: string): LiveAttempt | undefined {
    return this.#byId.get(attemptId);
  }

  ofWorker(workerId: string): Iterable<LiveAttempt> {
    return this.#byWorker.get(workerId) ?? [];
  }

  workerIds(): Iterable<string> {
    return this.#byWorker.keys();
  }

  add(attempt: LiveAttempt): void {
    this.#byId.set(attempt.attemptId, attempt);
    let attempts = this.#byWorker.get(attempt.workerId);
    if (attempts === undefined) {
      attempts = new Set();
      this.#byWorker.set(attempt.workerId, attempts);
    }
    attempts.add(attempt);
  }

  delete(attempt: LiveAttempt): void {
    if (this.#byId.get(attempt.attemptId) === attempt) this.#byId.delete(attempt.attemptId);
    const attempts = this.#byWorker.get(attempt.workerId);
    attempts?.delete(attempt);
    if (attempts?.size === 0) this.#byWorker.delete(attempt.workerId);
  }

  [Symbol.iterator](): Iterator<LiveAttempt> {
    return this.#byId.values();
  }
}
