import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { Sweeper } from '../dispatch/sweeper.ts';
import type { Heartbeat, WorkerSession } from './session.ts';

/** An accepted attempt that so many beats in a row do not name is not at its worker any more. */
const MAX_MISSED_BEATS = 2;

export interface BeatsParts {
  readonly dispatcher: Dispatcher;
  readonly sweeper: Sweeper;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What the worker is told again. */
export interface BeatAnswer {
  /** Named, and to be stopped. */
  readonly cancel: string[];
  /** Named in this beat and in the one before, and not the worker's: an end may be under way, and is not cut off by one beat. */
  readonly revoke: string[];
}

/** Holds what workers say they have against what they were given, so that no message that was lost on the way is lost for good. */
export class Beats {
  readonly #parts: BeatsParts;
  /** What the last beat named and is not its worker's. */
  readonly #strays = new WeakMap<WorkerSession, ReadonlySet<string>>();

  constructor(parts: BeatsParts) {
    this.#parts = parts;
  }

  hear(session: WorkerSession, { attempts }: Heartbeat): BeatAnswer {
    const { dispatcher, clock } = this.#parts;
    const atMs = clock.nowMs();
    const answer: BeatAnswer = { cancel: [], revoke: [] };
    const strays = new Set<string>();
    const named = new Set<string>();
    for (const { attemptId, agentAgeMs } of attempts) {
      const attempt = dispatcher.live.get(attemptId);
      if (attempt?.link === session) {
        named.add(attemptId);
        attempt.beat = { atMs, agentAgeMs };
        if (attempt.cancelRequestedUptimeMs !== null) answer.cancel.push(attemptId);
      } else if (attempt?.workerId !== session.workerId) {
        strays.add(attemptId);
        if (this.#strays.get(session)?.has(attemptId) === true) answer.revoke.push(attemptId);
      }
    }
    this.#strays.set(session, strays);
    for (const attempt of dispatcher.live.ofWorker(session.workerId)) {
      // One that is not accepted may be on its way to the worker; what the worker has said of one may not be worked off.
      if (attempt.link !== session || attempt.state === 'assigned' || attempt.underWay > 0) continue;
      attempt.missedBeats = named.has(attempt.attemptId) ? 0 : attempt.missedBeats + 1;
      if (attempt.missedBeats === MAX_MISSED_BEATS) this.#lose(attempt);
    }
    return answer;
  }

  #lose(attempt: Parameters<Sweeper['lose']>[0]): void {
    const { sweeper, log } = this.#parts;
    const { attemptId, workerId } = attempt;
    log.warn({ attemptId, workerId }, 'a worker has an attempt no more');
    sweeper.lose(attempt, 'it was not among what this worker has').catch((error: unknown) => {
      // It is given up at a later beat.
      attempt.missedBeats = 0;
      log.error({ err: error, attemptId }, 'an attempt that its worker has no more could not be given up');
    });
  }
}
