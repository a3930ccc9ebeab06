import { join } from 'node:path';
import { type Migration, readMigrationsOf } from '../migrations.ts';
import type { Database } from './database.ts';

const DIRECTORY = join(import.meta.dirname, 'migrations');

/** @throws when the files are not numbered 1, 2, 3 … */
export const readMigrations = (): Migration[] => readMigrationsOf(DIRECTORY);

/**
 * Brings the schema up to the newest migration, each in one transaction.
 *
 * @throws when an applied migration is not what the file says now, or is newer than this program
 */
export function migrate(database: Database, nowMs: number, migrations: readonly Migration[] = readMigrations()): void {
  database.exec(
    'CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT',
  );
  const applied = database.all<{ number: number; name: string; sha256: string }>(
    'SELECT number, name, sha256 FROM migrations ORDER BY number',
  );
  for (const { number, name, sha256 } of applied) {
    const known = migrations[number - 1];
    if (known === undefined) throw new Error(`the data directory is of a newer version: it has the migration ${name}`);
    if (known.sha256 !== sha256) throw new Error(`the migration ${name} was applied with another text`);
  }
  for (const migration of migrations.slice(applied.length)) {
    database.exec('BEGIN IMMEDIATE');
    try {
      database.exec(migration.sql);
      database.run(
        'INSERT INTO migrations VALUES (?, ?, ?, ?)',
        migration.number,
        migration.name,
        migration.sha256,
        nowMs,
      );
      database.exec('COMMIT');
    } catch (error) {
      database.exec('ROLLBACK');
      throw error;
    }
  }
}
