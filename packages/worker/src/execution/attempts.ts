import type { AttemptAssign, StopKind } from '@cocore/protocol';
import type { CapacityLedger, Share } from '../capacity/ledger.ts';
import { uptimeClock } from '../host/clock.ts';
import type { Sandbox } from '../sandbox/driver.ts';
import type { Attempt, StopCause } from './attempt.ts';
import type { AttemptEntry, RunningTask } from './attempt-records.ts';
import type { EndJournal, EndRecord } from './end-journal.ts';
import { Execution, type ExecutionParts } from './execution.ts';
import { PastAttempt } from './past-attempt.ts';

/** Why an assignment is not taken. */
export type Refusal = 'no_capacity' | 'stopping';

export interface AttemptsParts extends ExecutionParts {
  readonly journal: Pick<EndJournal, 'write' | 'remove'>;
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
  #stopping: StopKind | null = null;

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
    if (this.#stopping !== null) return 'stopping';
    if (this.#live.size >= MAX_ATTEMPTS) return 'no_capacity';
    if (!this.#ledger.admit(attemptId, this.#shareOf(task))) return 'no_capacity';
    this.#add(Execution.begin({ attemptId, task }, this.#parts));
    return null;
  }

  /**
   * Goes on with what an earlier life of the daemon began. What has ended there, and what the owner leases no room for any more, is destroyed.
   */
  async takeUp(entry: AttemptEntry, sandbox: Sandbox): Promise<void> {
    const { attemptId, task } = entry;
    if (!this.#live.has(attemptId) && this.#ledger.admit(attemptId, this.#shareOf(task))) {
      return this.#add(Execution.takeUp(entry, sandbox, this.#parts));
    }
    await sandbox.destroy();
    await this.#parts.records?.remove(attemptId);
  }

  #shareOf({ cpus, memoryMiB, scratchMiB }: RunningTask): Share {
    const { overheadMiB } = this.#parts.driver.capabilities;
    return { cpus, memoryMiB: memoryMiB + overheadMiB, diskMiB: scratchMiB };
  }

  #add(execution: Execution): void {
    const { attemptId } = execution;
    this.#live.set(attemptId, execution);
    this.#running.add(execution);
    void execution.done.then(() => {
      this.#ledger.release(attemptId);
      this.#running.delete(execution);
      this.#look();
    });
  }

  /** Why nothing more is admitted; null while it is. */
  get stopping(): StopKind | null {
    return this.#stopping;
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

  /** The control server has the acceptance. */
  acceptanceCommitted(attemptId: string): void {
    const attempt = this.#live.get(attemptId);
    if (attempt instanceof Execution) attempt.acceptanceCommitted();
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
    this.#stopping ??= 'drain';
    this.#look();
    return this.#drained.promise;
  }

  #look(): void {
    if (this.#stopping !== null && this.#live.size === 0 && this.#running.size === 0) this.#drained.resolve();
  }

  /** The control server may have given up all that is here: what others could see beside its successor ends now. */
  cutOff(): void {
    for (const execution of this.#running) if (execution.hasNetwork) execution.stop('cut_off');
  }

  /** Ends everything as reclaimed and admits nothing more; resolves when every sandbox is gone. */
  async reclaim(): Promise<void> {
    this.#stopping = 'reclaim';
    for (const execution of this.#running) execution.stop('host_reclaimed');
    await Promise.all([...this.#running].map((execution) => execution.done));
  }
}
