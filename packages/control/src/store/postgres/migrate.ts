import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CocoreError } from '@cocore/protocol';
import { type Migration, readMigrationsOf } from '../migrations.ts';
import type { Connection } from './connection.ts';
import { control } from './running.ts';

const DIRECTORY = join(import.meta.dirname, 'migrations');

/** Held while the schema is looked at and changed, by one server. */
const MIGRATING_LOCK = 4_930_202;
/** Shared by each connection that writes, for as long as it is open. */
const SERVING_LOCK = 4_930_203;

/**
 * How a migration begins that servers must not meet which do not know it. All others only add: tables, indexes, columns that may be left out (an index that
 * another replaces may go); so older servers go on beside them.
 */
const EXCLUDES_OLDER = '-- Excludes older servers.';

export const readMigrations = (): Migration[] => readMigrationsOf(DIRECTORY);

/**
 * Brings the schema up to the newest migration, each in one transaction, one server at a time. Newer ones that this program does not know are left alone,
 * unless they exclude it.
 *
 * @throws CocoreError `database_unfit`
 */
export async function migrate(
  connection: Connection,
  nowMs: number,
  migrations: readonly Migration[] = readMigrations(),
): Promise<void> {
  const ask = async (sql: string, ...parameters: (string | number)[]) => {
    const [answer] = await connection.round([control(sql, ...parameters).asked]);
    return answer!.rows;
  };
  await ask('SELECT pg_advisory_lock(?)', MIGRATING_LOCK);
  await ask(`CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL,
    excludes_older BIGINT NOT NULL, applied_at BIGINT NOT NULL)`);
  const applied = (await ask('SELECT number, name, sha256, excludes_older FROM migrations ORDER BY number')) as {
    number: number;
    name: string;
    sha256: string;
    excludes_older: 0 | 1;
  }[];
  for (const { number, name, sha256, excludes_older } of applied) {
    const known = migrations[number - 1];
    if (known === undefined && excludes_older === 1) {
      throw unfit(`it is of a newer version: its migration ${name} excludes this one`);
    }
    if (known !== undefined && known.sha256 !== sha256) throw unfit(`its migration ${name} was another text`);
  }
  for (const migration of migrations.slice(applied.length)) await apply(connection, migration, nowMs, ask);
  await ask('SELECT pg_advisory_unlock(?)::int', MIGRATING_LOCK);
}

async function apply(
  connection: Connection,
  { number, name, sql, sha256 }: Migration,
  nowMs: number,
  ask: (sql: string, ...parameters: (string | number)[]) => Promise<readonly object[]>,
): Promise<void> {
  const excludesOlder = sql.startsWith(EXCLUDES_OLDER);
  await connection.execute('BEGIN');
  // As long as it takes: the connection's own limit is for what serves.
  await connection.execute('SET LOCAL statement_timeout = 0');
  if (excludesOlder) {
    const [taken] = (await ask('SELECT pg_try_advisory_xact_lock(?)::int AS ok', SERVING_LOCK)) as { ok: 0 | 1 }[];
    if (taken!.ok === 0) {
      throw unfit(`other servers use it, and the migration ${name} excludes older ones; stop them first`);
    }
  }
  await connection.execute(sql);
  await ask(
    'INSERT INTO migrations (number, name, sha256, excludes_older, applied_at) VALUES (?, ?, ?, ?, ?)',
    ...[number, name, sha256, Number(excludesOlder), nowMs],
  );
  await connection.execute('COMMIT');
}

/** Says, for as long as the connection is open, that a server writes by it. */
export async function serve(connection: Connection): Promise<void> {
  await connection.round([control('SELECT pg_advisory_lock_shared(?)', SERVING_LOCK).asked]);
}

/** Keeps all servers out for as long as the connection is open. @throws CocoreError `database_unfit` when one is there */
export async function exclude(connection: Connection): Promise<void> {
  await take(connection, 'SELECT pg_try_advisory_lock(?)::int AS ok', SERVING_LOCK, 'a server uses it');
}

/** Servers of before there could be several hold this alone, each by the connection that it writes with. */
const USING_LOCK = 4_930_204;
/**
 * Uses the database together with others that can, for as long as the connection is open.
 *
 * @throws CocoreError `database_unfit` when one uses it that cannot
 */
export async function share(connection: Connection): Promise<void> {
  const refusal = 'a server of an older release uses it, which shares it with none';
  await take(connection, 'SELECT pg_try_advisory_lock_shared(?)::int AS ok', USING_LOCK, refusal);
}

/** A connection that a server has lost may still have the lock until the database notices. */
const TAKE_MS = 5_000;

async function take(connection: Connection, how: string, lock: number, refusal: string): Promise<void> {
  const until = performance.now() + TAKE_MS;
  for (;;) {
    const [answer] = await connection.round([control(how, lock).asked]);
    const [taken] = answer!.rows as { ok: 0 | 1 }[];
    if (taken!.ok === 1) return;
    if (performance.now() > until) throw unfit(refusal);
    await sleep(100);
  }
}

const unfit = (message: string) => new CocoreError('database_unfit', `the database cannot be used: ${message}`);
