import type { AttemptRecord, ExecutionRecord } from '@cocore/protocol';

/**
 * The attempt whose output stands for the execution's: the one that decided it, else the newest that a worker has accepted, else the newest. So what was
 * written stays while another attempt waits, and when the execution ends before anybody took that.
 *
 * @returns undefined when there are none
 */
export const shownOf = (
  decidingAttempt: string | null,
  attempts: readonly AttemptRecord[],
): AttemptRecord | undefined =>
  attempts.find(({ id }) => id === decidingAttempt) ??
  attempts.findLast(({ acceptedAt }) => acceptedAt !== null) ??
  attempts.at(-1);

/** Of an execution that is not expired. */
export const shownAttempt = ({ decidingAttempt, attempts }: ExecutionRecord): string =>
  shownOf(decidingAttempt, attempts)!.id;
