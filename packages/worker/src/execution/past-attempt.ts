import type { AttemptEnded, AttemptStream, OfStreams } from '@cocore/protocol';
import type { Clock } from '../host/clock.ts';
import type { Acceptance, Attempt } from './attempt.ts';
import { AttemptOutput } from './attempt-output.ts';
import type { EndRecord } from './end-journal.ts';

/** An attempt of an earlier life of the daemon, of which nothing is left but its end. */
export class PastAttempt implements Attempt {
  readonly attemptId: string;
  readonly acceptance: Acceptance;
  readonly output: AttemptOutput;
  readonly hasNetwork = false;
  readonly fetching = null;
  readonly startedAtMs: number | null;
  #ended: AttemptEnded;

  constructor({ driver, isolation, startedAtMs, ended }: EndRecord, uptime: Clock) {
    this.attemptId = ended.attemptId;
    this.acceptance = { driver, isolation };
    this.output = AttemptOutput.spent(ended);
    this.#ended = ended;
    // The host may have been started anew: then this is before the clock's beginning.
    this.startedAtMs = startedAtMs === null ? null : uptime() - Math.max(0, Date.now() - startedAtMs);
  }

  get ended(): AttemptEnded {
    return this.#ended;
  }

  agentAgeMs(): null {
    return null;
  }

  resume(offsets: OfStreams<number>): AttemptStream[] {
    return this.output.resumeAll(offsets);
  }

  loseOutput(): void {
    this.output.giveUp();
    this.#ended = { ...this.#ended, final: true };
  }
}
