import { type ExecutionRecord, MAX_REDELIVERIES, type Reason } from '@cocore/protocol';

const REDELIVERED: ReadonlySet<Reason | null> = new Set<Reason>(['host_lost', 'host_reclaimed', 'output_lost']);

/** Whether an execution that ended for a reason that is its hosts' was run again before as often as it may be; of others it is not asked. */
export function wasRunAgain({ reason, attempts }: Pick<ExecutionRecord, 'reason' | 'attempts'>): boolean {
  if (!REDELIVERED.has(reason)) return true;
  const again = attempts.filter(({ cause, outcome }) => cause === 'redelivery' && outcome?.kind !== 'superseded');
  return again.length === MAX_REDELIVERIES;
}
