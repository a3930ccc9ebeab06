import type { IsolationClass } from '@cocore/protocol';
import { type CapFacts, Scheduler, type SchedulerItem, type SchedulerShape } from '../../src/scheduler/scheduler.ts';

/** A scheduler as a test feeds it, and what it makes of it. */

export const item = (attemptId: string, change: Partial<SchedulerItem> = {}): SchedulerItem => ({
  attemptId,
  projectId: 'p',
  function: { id: 'f', version: 1, limit: null },
  concurrency: null,
  priority: 0,
  memoryMiB: 256,
  cpus: 1,
  diskMiB: 512,
  isolation: 'container',
  egress: false,
  blobs: ['image', 'code'],
  ...change,
});

export interface Worker {
  memoryMiB: number;
  cpus: number;
  diskMiB?: number;
  sandboxOverheadMiB?: number;
  isolation?: IsolationClass;
  egress?: boolean;
  attempts?: (SchedulerShape & CapFacts)[];
}

export function online(made: Scheduler, workerId: string, worker: Worker): void {
  const usual = {
    diskMiB: 1_000_000,
    sandboxOverheadMiB: 0,
    isolation: 'container',
    egress: false,
    attempts: [],
  } as const;
  made.apply({ type: 'worker_online', workerId, ...usual, ...worker });
}

export function scheduler(workers: Record<string, Worker>): Scheduler {
  const made = new Scheduler();
  for (const [workerId, worker] of Object.entries(workers)) online(made, workerId, worker);
  return made;
}

export function queue(made: Scheduler, ...items: SchedulerItem[]): void {
  for (const one of items) made.apply({ type: 'queued', ...one });
}

/** Places all that can be placed: `attempt>worker`. */
export function placements(made: Scheduler): string[] {
  const found: string[] = [];
  for (let next = made.next(); next !== null; next = made.next()) found.push(`${next.attemptId}>${next.workerId}`);
  return found;
}
