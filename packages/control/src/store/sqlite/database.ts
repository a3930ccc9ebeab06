import { DatabaseSync } from 'node:sqlite';

/** The part of a SQLite binding that the store needs, so that another binding can take its place. */
export interface SqliteConnection {
  exec(sql: string): void;
  prepare(sql: string): SqliteStatement;
  close(): void;
}

export interface SqliteStatement {
  run(...parameters: SqliteValue[]): { changes: number | bigint };
  get(...parameters: SqliteValue[]): object | undefined;
  all(...parameters: SqliteValue[]): object[];
  iterate(...parameters: SqliteValue[]): Iterable<object>;
}

export type SqliteValue = string | number | null | Uint8Array;

interface PendingWrite {
  /** Runs inside the group's transaction. */
  readonly run: () => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

type Settled = { readonly write: PendingWrite } & ({ readonly value: unknown } | { readonly error: unknown });

/**
 * One connection with its prepared statements, and group commit: writes that arrive in one turn of the event loop run one after the other, each
 * under its own savepoint, in one transaction, and are answered only after its commit. A write that throws is rolled
 * back alone.
 */
export class Database {
  readonly #connection: SqliteConnection;
  readonly #statements = new Map<string, SqliteStatement>();
  #pending: PendingWrite[] = [];
  #closed = false;

  constructor(connection: SqliteConnection) {
    this.#connection = connection;
  }

  exec(sql: string): void {
    this.#connection.exec(sql);
  }

  /** @returns the number of rows changed */
  run(sql: string, ...parameters: SqliteValue[]): number {
    return Number(this.#prepare(sql).run(...parameters).changes);
  }

  get<Row extends object>(sql: string, ...parameters: SqliteValue[]): Row | undefined {
    return this.#prepare(sql).get(...parameters) as Row | undefined;
  }

  all<Row extends object>(sql: string, ...parameters: SqliteValue[]): Row[] {
    return this.#prepare(sql).all(...parameters) as Row[];
  }

  /** Reads no further than it is iterated. */
  iterate<Row extends object>(sql: string, ...parameters: SqliteValue[]): Iterable<Row> {
    return this.#prepare(sql).iterate(...parameters) as Iterable<Row>;
  }

  /** Runs reads that belong together: they see one commit. */
  read<T>(run: () => T): T {
    this.run('BEGIN');
    try {
      return run();
    } finally {
      this.run('COMMIT');
    }
  }

  /** Resolves with what `run` returned once that is durable. `run` must be synchronous. */
  write<T>(run: () => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#closed) {
        reject(new Error('the store is closed'));
        return;
      }
      if (this.#pending.length === 0) setImmediate(() => this.#commit());
      this.#pending.push({ run, resolve: resolve as (value: unknown) => void, reject });
    });
  }

  /** Commits what is pending, then closes. */
  close(): void {
    if (this.#closed) return;
    this.#commit();
    this.#closed = true;
    this.#connection.close();
  }

  #prepare(sql: string): SqliteStatement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#connection.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  #commit(): void {
    const group = this.#pending;
    this.#pending = [];
    if (group.length === 0) return;
    const settled: Settled[] = [];
    try {
      this.run('BEGIN IMMEDIATE');
      for (const write of group) settled.push(this.#runOne(write));
      this.run('COMMIT');
    } catch (error) {
      this.#abandon();
      for (const write of group) write.reject(error);
      return;
    }
    for (const one of settled) {
      if ('error' in one) one.write.reject(one.error);
      else one.write.resolve(one.value);
    }
  }

  #runOne(write: PendingWrite): Settled {
    this.run('SAVEPOINT one');
    try {
      const value = write.run();
      this.run('RELEASE one');
      return { write, value };
    } catch (error) {
      this.run('ROLLBACK TO one');
      this.run('RELEASE one');
      return { write, error };
    }
  }

  #abandon(): void {
    try {
      this.run('ROLLBACK');
    } catch {
      // SQLite has rolled back by itself.
    }
  }
}

const PRAGMAS =
  'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; PRAGMA wal_autocheckpoint = 8000';

/** A file on disk: with a write-ahead log, synced at each commit, when it is opened for writing. */
export function openDatabase(path: string, options: { readOnly?: boolean } = {}): Database {
  const connection = new DatabaseSync(path, options);
  const database = new Database(connection);
  try {
    if (options.readOnly !== true) database.exec(PRAGMAS);
  } catch (error) {
    connection.close();
    throw error;
  }
  return database;
}
