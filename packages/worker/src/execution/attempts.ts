import type { AttemptAssign } from '@cocore/protocol';
import type { CapacityLedger } from '../capacity/ledger.ts';
import { uptimeClock } from '../host/clock.ts';
import type { Attempt, StopCause } from './attempt.ts';
import type { EndJournal, EndRecord } from './end-journal.ts';
import { Execution, type ExecutionParts } from './execution.ts';
import { PastAttempt } from './past-attempt.ts';

/** Why an assignment is not taken. */
export type Refusal = 'no_capacity' | 'stopping';

export interface AttemptsParts extends ExecutionParts {
  readonly journal: EndJournal;
}

/** As many as one hello may name; ends that nobody acknowledges are among them. */
const MAX_ATTEMPTS = 10_000;

/**
 * The attempts that this daemon has: from admission until the control server has their end (or takes them back). An attempt
 * holds its share of the ledger until its sandbox is gone.
 */
export class Attempts {
  readonly #ledger: CapacityLedger;
  readonly #parts: AttemptsParts;
  readonly #live = new Map<string, Execution | PastAttempt>();
  /** Whose sandbox may still be there; also those that were revoked. */
  readonly #running = new Set<Execution>();
  readonly #drained = Promise.withResolvers<void>();
  #stopping = false;

  /** @param past ends that earlier lives of the daemon left in the journal */
  constructor(ledger: CapacityLedger, parts: AttemptsParts, past: readonly EndRecord[] = []) {
    this.#ledger = ledger;
    this.#parts = parts;
    const uptime = parts.uptime ?? uptimeClock();
    for (const record of past) this.#live.set(record.ended.attemptId, new PastAttempt(record, uptime));
  }

  /** Starts the attempt; an attempt that is there already goes on. The answer is the cause of a refusal, or null. */
  assign({ attemptId, task }: AttemptAssign): Refusal | null {
    if (this.#live.has(attemptId)) return null;
    if (this.#stopping) return 'stopping';
    if (this.#live.size >= MAX_ATTEMPTS) return 'no_capacity';
    const share = {
      cpus: task.cpus,
      memoryMiB: task.memoryMiB + this.#parts.driver.capabilities.overheadMiB,
      diskMiB: task.scratchMiB,
    };
    if (!this.#ledger.admit(attemptId, share)) return 'no_capacity';
    const execution = new Execution({ attemptId, task }, this.#parts);
    this.#live.set(attemptId, execution);
    this.#running.add(execution);
    void execution.done.then(() => {
      this.#ledger.release(attemptId);
      this.#running.delete(execution);
      this.#look();
    });
    return null;
  }

  get(attemptId: string): Attempt | undefined {
    return this.#live.get(attemptId);
  }

  /** In the order of their admission. */
  list(): Attempt[] {
    return [...this.#live.values()];
  }

  stop(attemptId: string, cause: StopCause): void {
    const attempt = this.#live.get(attemptId);
    if (attempt instanceof Execution) attempt.stop(cause);
    if (cause === 'revoked') this.#remove(attemptId);
  }

  /** The control server has the end. */
  forget(attemptId: string): void {
    if (this.#live.get(attemptId)?.ended !== null) this.#remove(attemptId);
  }

  #remove(attemptId: string): void {
    if (!this.#live.delete(attemptId)) return;
    void this.#parts.journal.remove(attemptId).then(() => this.#look());
  }

  /** Admits nothing more; resolves when nothing runs and the control server has the end of all that was here. */
  drain(): Promise<void> {
    this.#stopping = true;
    this.#look();
    return this.#drained.promise;
  }

  #look(): void {
    if (this.#stopping && this.#live.size === 0 && this.#running.size === 0) this.#drained.resolve();
  }

  /** Ends everything as reclaimed and admits nothing more; resolves when every sandbox is gone. */
  async reclaim(): Promise<void> {
    this.#stopping = true;
    for (const execution of this.#running) execution.stop('host_reclaimed');
    await Promise.all([...this.#running].map((execution) => execution.done));
  }
}
