import { CocoreError } from '@cocore/protocol';
import type { Connection } from '../postgres/connection.ts';
import type { Database } from '../sqlite/database.ts';
import { quoted, rowsOf, tablesOf } from './plan.ts';

/** Says which migrations it has had. */
const MIGRATIONS = 'migrations';
/** Rows of stores that were open: nobody misses them. */
const OF_PROCESSES: ReadonlySet<string> = new Set(['writers']);

/**
 * Lets the schema be made in a database that holds nothing.
 *
 * @throws CocoreError `database_not_empty`, where anything is there
 */
export async function checkEmpty(from: Database, to: Connection, makeSchema: () => Promise<void>): Promise<void> {
  const found = await tablesOf(to);
  if (found.length > 0 && !found.includes(MIGRATIONS))
    throw notEmpty(`it has the table ${found[0]}, which is not CoCore’s`);
  await makeSchema();
  const [given] = from.all<{ incarnation: string }>('SELECT incarnation FROM incarnation');
  const [kept] = (await rowsOf(to, 'SELECT incarnation FROM incarnation')) as { incarnation: string }[];
  if (kept !== undefined && kept.incarnation === given?.incarnation) {
    throw notEmpty('this very store was moved there before: start the server with it');
  }
  for (const table of await tablesOf(to)) {
    if (table === MIGRATIONS || OF_PROCESSES.has(table)) continue;
    const rows = await rowsOf(to, `SELECT 1 AS one FROM ${quoted(table)} LIMIT 1`);
    if (rows.length > 0) throw notEmpty(`its table ${table} has rows`);
  }
}

const notEmpty = (why: string) => new CocoreError('database_not_empty', `the database is not empty: ${why}`);
