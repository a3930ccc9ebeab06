import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** Changes nothing, and has to be written to the disk all the same. */
export function* tryWrite({ db }: Context): Verb<void> {
  yield* db.send('UPDATE projects SET name = name WHERE project_id = (SELECT project_id FROM projects LIMIT 1)');
}
