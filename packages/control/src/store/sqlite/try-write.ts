import type { Context } from './context.ts';

/** Changes nothing, and has to be written to the disk all the same. */
export function tryWrite({ db }: Context): void {
  db.run('UPDATE projects SET name = name WHERE project_id = (SELECT project_id FROM projects LIMIT 1)');
}
