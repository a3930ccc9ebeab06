import type { Clock } from '../clock.ts';
import type { EventHub } from '../events.ts';
import type { CancelledPage, CancelRequested, LiveFilter, Store } from '../store/store.ts';
import type { LiveAttempts } from './live-attempt.ts';

/** So many are cancelled in one transaction. */
const CANCEL_PAGE = 200;

export interface CancellationsParts {
  readonly store: Store;
  readonly live: LiveAttempts;
  readonly hub: EventHub;
  readonly clock: Clock;
  /** Is called with an attempt that is to be stopped, and that another server may have. */
  readonly onElsewhere: (attemptId: string) => void;
  /** Is called with an execution that has ended by it, and that no worker had accepted. */
  readonly onWithdrawn: (executionId: string, attemptId: string) => void;
}

/** Requests to cancel: what waits ends, and who has what does not is told. */
export class Cancellations {
  readonly #parts: CancellationsParts;

  constructor(parts: CancellationsParts) {
    this.#parts = parts;
  }

  async cancel(projectId: string, executionId: string): Promise<CancelRequested | null> {
    const cancelled = await this.#parts.store.requestCancel(projectId, executionId);
    if (cancelled !== null) this.#cancelled(executionId, cancelled);
    return cancelled;
  }

  /** As `cancel`, for all that the filter takes, in pages. @returns how many of them came to what */
  async cancelAll(projectId: string, filter: LiveFilter): Promise<Record<CancelRequested['result'], number>> {
    const counts = { cancelled: 0, requested: 0, already_requested: 0, already_ended: 0 };
    for (let after: string | null = ''; after !== null;) {
      const page: CancelledPage = await this.#parts.store.requestCancelOf(projectId, filter, after, CANCEL_PAGE);
      for (const one of page.executions) {
        counts[one.result] += 1;
        this.#cancelled(one.executionId, one);
      }
      after = page.next;
    }
    return counts;
  }

  /** A request to cancel is committed. */
  #cancelled(executionId: string, { result, attempt: cancelled }: CancelRequested): void {
    const { live, hub, clock, onWithdrawn, onElsewhere } = this.#parts;
    if (cancelled === null) return;
    const { attemptId } = cancelled;
    if (result === 'cancelled') onWithdrawn(executionId, attemptId);
    if (result === 'requested') {
      const attempt = live.get(attemptId);
      if (attempt === undefined) onElsewhere(attemptId);
      else {
        attempt.cancelRequestedUptimeMs = clock.uptimeMs();
        attempt.link?.send({ type: 'AttemptCancel', attemptId });
      }
      hub.publish(executionId, 'changed');
    }
  }
}
