import type { WorkerRecord } from '@cocore/protocol';

/** Whether it is there, and why it gets less than it has room for, if it does. */
export function workerState({ state, drain, backoff }: WorkerRecord, nowMs = Date.now()): string {
  const notes: string[] = [];
  if (drain !== null) notes.push(drain.state);
  if (backoff !== null) {
    const waitMs = backoff.until === null ? 0 : Date.parse(backoff.until) - nowMs;
    notes.push(waitMs > 0 ? `backed off for ${Math.ceil(waitMs / 1000)}s` : 'on trial');
  }
  return notes.length === 0 ? state : `${state} (${notes.join(', ')})`;
}

/** How many attempts it has, and of how many where it has not earned all that it has room for. */
export function workerLoad({ attempts, allowance }: WorkerRecord): string {
  return allowance === null ? String(attempts) : `${attempts} of ${allowance}`;
}
