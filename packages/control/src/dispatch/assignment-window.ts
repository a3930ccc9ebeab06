import type { Scheduler } from '../scheduler/scheduler.ts';
import type { WorkerLink } from './live-attempt.ts';

/** Of assignments under way to one worker: chosen for it, and not yet taken by the network. The last of them may go beyond it. */
export const ASSIGNMENT_WINDOW_BYTES = 1024 * 1024;
/** What an assignment is beside the texts that its size is of. */
const MESSAGE_BYTES = 1024;

/**
 * Holds back what would wait on its way to a worker: it waits in the queue instead, where another worker may take it, and nothing else that this worker is
 * told waits behind it.
 */
export class AssignmentWindow {
  readonly #scheduler: Scheduler;
  readonly #onOpened: () => void;
  readonly #bytes = new Map<WorkerLink, number>();

  /** @param onOpened is called when a worker may be given something again */
  constructor(scheduler: Scheduler, onOpened: () => void) {
    this.#scheduler = scheduler;
    this.#onOpened = onOpened;
  }

  /** @returns what is called when it is not under way any more */
  add(link: WorkerLink, taskBytes: number): () => void {
    const bytes = taskBytes + MESSAGE_BYTES;
    this.#change(link, bytes);
    let isOver = false;
    return () => {
      if (isOver || !this.#bytes.has(link)) return;
      isOver = true;
      this.#change(link, -bytes);
    };
  }

  /** Its session has ended. */
  forget(link: WorkerLink): void {
    this.#bytes.delete(link);
  }

  #change(link: WorkerLink, bytes: number): void {
    const before = this.#bytes.get(link) ?? 0;
    const after = before + bytes;
    this.#bytes.set(link, after);
    const [wasFull, isFull] = [before, after].map((sum) => sum >= ASSIGNMENT_WINDOW_BYTES);
    if (wasFull === isFull) return;
    this.#scheduler.apply({ type: 'worker_behind', workerId: link.workerId, behind: isFull! });
    if (!isFull!) this.#onOpened();
  }
}
