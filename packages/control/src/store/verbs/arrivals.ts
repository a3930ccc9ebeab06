import type { Limits } from '../../admission.ts';
import type { CreatedAssigned, NewExecution, PlacedArrival } from '../store.ts';
import { hostOf, isEnough, taskOf } from './assignments.ts';
import { isCapped } from './caps.ts';
import type { Context } from './context.ts';
import { createExecutionOf, type FirstAttempt, functionOf } from './creation.ts';
import type { FunctionRow } from './records.ts';
import type { Verb } from './statements.ts';

export function* createAssigned(
  context: Context,
  execution: NewExecution,
  limits: Limits,
  placed: PlacedArrival,
): Verb<CreatedAssigned> {
  const { attemptId } = placed;
  const version = yield* functionOf(context, execution);
  const assigned = yield* takenBy(context, execution, version, placed);
  const { created, row } = yield* createExecutionOf(context, execution, version, limits, {
    attempt: { attemptId, assigned },
  });
  return { ...created, task: row === null || assigned === null ? null : taskOf(row) };
}

/** Its worker, when that may have it. */
function* takenBy(
  context: Context,
  { projectId, concurrency = null }: NewExecution,
  version: FunctionRow,
  { attemptId, function: known, worker, shared }: PlacedArrival,
): Verb<FirstAttempt['assigned']> {
  const { function_id, max_concurrent, isolation, network } = version;
  // What was known of another version says nothing of where this one may run.
  if (function_id !== known.id || version.version !== known.version) return null;
  const host = yield* hostOf(context, worker);
  if (host === undefined || !isEnough(host, { isolation, network })) return null;
  if (shared === null) return { ...worker, host };
  const caps = {
    ...{ function_id, newest_version: version.version, max_concurrent },
    ...{ concurrency_key: concurrency?.key ?? null, concurrency_limit: concurrency?.limit ?? null },
  };
  return (yield* isCapped(context, { projectId, attemptId }, shared.caps, caps)) ? null : { ...worker, host };
}
