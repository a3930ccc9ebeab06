import type { Context } from './context.ts';
import type { Count, Verb } from './statements.ts';

type Change = Partial<Omit<Count, 'projectId' | 'functionId'>>;

/**
 * Counters are rows that every verb of a project writes. The verbs say only by how much, and never rely on what they have read: on a database with
 * several servers, what a group of verbs says is summed up and written at its end.
 */
export function* count(
  { db }: Context,
  of: { readonly project_id: string; readonly function_id: string | null },
  { live = 0, queued = 0, outputBytes = 0, check = null }: Change,
): Verb<void> {
  yield* db.count({ projectId: of.project_id, functionId: of.function_id, live, queued, outputBytes, check });
}
