import { SCRATCH_MIB } from '@cocore/protocol';
import type { SchedulerItem } from '../scheduler/scheduler.ts';
import type { QueuedAttempt } from '../store/store.ts';

/** What of an attempt stays the same, whether it waits or a worker has it. */
export type Placeable = Omit<QueuedAttempt, 'queuedAtMs' | 'notBeforeMs'>;

export function placeableOf(attempt: Placeable): Placeable {
  const { projectId, attemptId, executionId, function: of, priority, concurrency } = attempt;
  const { memoryMiB, cpus, isolation, egress, blobs, taskBytes } = attempt;
  return {
    ...{ projectId, attemptId, executionId, function: of, priority, concurrency },
    ...{ memoryMiB, cpus, isolation, egress, blobs, taskBytes },
  };
}

/** What the scheduler knows of it. */
export function itemOf(attempt: Placeable): SchedulerItem {
  const { executionId: _, taskBytes: __, ...known } = placeableOf(attempt);
  return { ...known, diskMiB: SCRATCH_MIB };
}
