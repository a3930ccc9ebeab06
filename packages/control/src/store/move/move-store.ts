import { existsSync } from 'node:fs';
import { CocoreError } from '@cocore/protocol';
import type { DataDir } from '../../data-dir.ts';
import { Connection } from '../postgres/connection.ts';
import { placeOf } from '../postgres/database-url.ts';
import { DatabaseFailure, startError, storeError } from '../postgres/errors.ts';
import { exclude, migrate as migratePostgres } from '../postgres/migrate.ts';
import { type Database, openDatabase } from '../sqlite/database.ts';
import { migrate as migrateSqlite } from '../sqlite/migrate.ts';
import { checkEmpty } from './empty.ts';
import { filedBytes, filedRows, OUTPUT_TABLE } from './filed-output.ts';
import { type MovedTable, planMove } from './plan.ts';
import { insertRows, RowSum, rowsIn, sumOf } from './rows.ts';

export interface MoveOptions {
  /** Locked, as a server locks it: so none runs. */
  readonly dataDir: DataDir;
  /** Of an empty database. */
  readonly databaseUrl: string;
  readonly nowMs: number;
  /** Ends it: then nothing is moved. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: MoveProgress) => void;
}

/** How far one table is. */
export interface MoveProgress {
  readonly table: string;
  readonly step: 'copying' | 'comparing' | 'done';
  /** Copied so far. */
  readonly rows: number;
  readonly bytes: number;
}

export interface Moved {
  /** Rows of each table in the database. */
  readonly tables: Readonly<Record<string, number>>;
  /** Of output that was in files, and is in rows now. */
  readonly outputFileBytes: number;
}

/**
 * Copies all that the embedded store and the output files of a data directory hold into an empty PostgreSQL database, in one transaction: all of it is there,
 * compared, or none is. The embedded store is brought to its newest schema, and otherwise left as it is. Memory holds a few MiB at a time.
 *
 * @throws CocoreError `usage`, `file_unreadable`, `database_unavailable`, `database_unfit`, `database_not_empty`; what the signal was aborted with
 */
export async function moveStore(options: MoveOptions): Promise<Moved> {
  const { dataDir, databaseUrl, nowMs } = options;
  const path = dataDir.file('cocore.db');
  if (!existsSync(path)) throw new CocoreError('usage', `${dataDir.path} holds no store: there is nothing to move`);
  const from = openDatabase(path);
  try {
    migrateSqlite(from, nowMs);
    const to = await connect(databaseUrl);
    try {
      await checkEmpty(from, to, () => migratePostgres(to, nowMs));
      const moved = await inOneTransaction(to, () => copyAll(from, to, options));
      await to.close();
      return moved;
    } catch (error) {
      // Whatever is under way in it is undone.
      to.drop();
      throw storeError(error) instanceof DatabaseFailure ? startError(error, placeOf(databaseUrl)) : error;
    }
  } finally {
    from.close();
  }
}

/** @returns a connection that keeps servers out */
async function connect(url: string): Promise<Connection> {
  let connection: Connection | null = null;
  try {
    connection = await Connection.open(url);
    await connection.check();
    await exclude(connection);
    return connection;
  } catch (error) {
    connection?.drop();
    throw startError(error, placeOf(url));
  }
}

async function inOneTransaction<T>(connection: Connection, work: () => Promise<T>): Promise<T> {
  await connection.execute('BEGIN');
  try {
    const result = await work();
    await connection.execute('COMMIT');
    return result;
  } catch (error) {
    if (!connection.isLost) await connection.execute('ROLLBACK');
    throw error;
  }
}

async function copyAll(from: Database, to: Connection, options: MoveOptions): Promise<Moved> {
  const tables = await planMove(from, to);
  const counts: Record<string, number> = {};
  for (const table of tables) counts[table.name] = await copy(table, from, to, options);
  return { tables: counts, outputFileBytes: filedBytes(from) };
}

/** @returns how many rows it has now */
async function copy(
  table: MovedTable,
  from: Database,
  to: Connection,
  { dataDir, signal, onProgress }: MoveOptions,
): Promise<number> {
  let [rows, bytes] = [0, 0];
  const say = (step: MoveProgress['step']) => onProgress({ table: table.name, step, rows, bytes });
  say('copying');
  const read = new RowSum();
  const all = [rowsIn(from, table), ...(table.name === OUTPUT_TABLE ? [filedRows(from, table, dataDir)] : [])];
  for (const part of all) {
    await insertRows(to, table, part, read, (addedRows, addedBytes) => {
      signal.throwIfAborted();
      rows += addedRows;
      bytes += addedBytes;
      say('copying');
    });
  }
  say('comparing');
  const kept = await sumOf(to, table, signal);
  if (!kept.equals(read)) {
    throw new Error(
      `the table ${table.name} came out different: ${read.count} rows were read, ${kept.count} are there`,
    );
  }
  say('done');
  return rows;
}
