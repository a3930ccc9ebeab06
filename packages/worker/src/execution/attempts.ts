import type { AttemptAssign } from '@cocore/protocol';
import type { CapacityLedger } from '../capacity/ledger.ts';
import type { Attempt, StopCause } from './attempt.ts';
import { Execution, type ExecutionParts } from './execution.ts';

/** Why an assignment is not taken. */
export type Refusal = 'no_capacity' | 'stopping';

/**
 * The attempts that this daemon has: from admission until the control server has their end (or takes them back). An attempt
 * holds its share of the ledger until its sandbox is gone.
 */
export class Attempts {
  readonly #ledger: CapacityLedger;
  readonly #parts: ExecutionParts;
  readonly #live = new Map<string, Execution>();
  /** Whose sandbox may still be there; also those that were revoked. */
  readonly #running = new Set<Execution>();
  #stopping = false;

  constructor(ledger: CapacityLedger, parts: ExecutionParts) {
    this.#ledger = ledger;
    this.#parts = parts;
  }

  /** Starts the attempt; an attempt that is there already goes on. The answer is the cause of a refusal, or null. */
  assign({ attemptId, task }: AttemptAssign): Refusal | null {
    if (this.#live.has(attemptId)) return null;
    if (this.#stopping) return 'stopping';
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
    const execution = this.#live.get(attemptId);
    if (execution === undefined) return;
    execution.stop(cause);
    if (cause === 'revoked') this.#live.delete(attemptId);
  }

  /** The control server has the end. */
  forget(attemptId: string): void {
    if (this.#live.get(attemptId)?.ended !== null) this.#live.delete(attemptId);
  }

  /** Ends everything as reclaimed and admits nothing more; resolves when every sandbox is gone. */
  async reclaim(): Promise<void> {
    this.#stopping = true;
    for (const execution of this.#running) execution.stop('host_reclaimed');
    await Promise.all([...this.#running].map((execution) => execution.done));
  }
}
