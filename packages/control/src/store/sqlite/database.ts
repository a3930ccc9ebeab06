import { DatabaseSync } from 'node:sqlite';
import { Conflict, type Count, type SqlValue, type Statement, type Verb } from '../verbs/statements.ts';

/** The part of a SQLite binding that the store needs, so that another binding can take its place. */
export interface SqliteConnection {
  exec(sql: string): void;
  prepare(sql: string): SqliteStatement;
  close(): void;
}

export interface SqliteStatement {
  run(...parameters: SqlValue[]): { changes: number | bigint };
  get(...parameters: SqlValue[]): object | undefined;
  all(...parameters: SqlValue[]): object[];
  iterate(...parameters: SqlValue[]): Iterable<object>;
}

const COUNT_OF_PROJECT = `
  UPDATE projects SET live_executions = live_executions + ?, queued_executions = queued_executions + ?, output_bytes = output_bytes + ?
  WHERE project_id = ?`;
const COUNT_OF_FUNCTION =
  'UPDATE functions SET queued_executions = queued_executions + ? WHERE project_id = ? AND function_id = ?';

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
  run(sql: string, ...parameters: SqlValue[]): number {
    return Number(this.#prepare(sql).run(...parameters).changes);
  }

  get<Row extends object>(sql: string, ...parameters: SqlValue[]): Row | undefined {
    return this.#prepare(sql).get(...parameters) as Row | undefined;
  }

  all<Row extends object>(sql: string, ...parameters: SqlValue[]): Row[] {
    return this.#prepare(sql).all(...parameters) as Row[];
  }

  /** Row by row, so that memory holds one. */
  each<Row extends object>(sql: string): Iterable<Row> {
    return this.#connection.prepare(sql).iterate() as Iterable<Row>;
  }

  /** Runs a verb to its end. */
  drive<Result>(verb: Verb<Result>): Result {
    let step = verb.next();
    while (step.done !== true) step = verb.next(this.#perform(step.value));
    return step.value;
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

  #perform(statement: Statement): unknown {
    if (statement.kind === 'count') {
      this.#count(statement.count);
      return undefined;
    }
    const { kind, sql, parameters } = statement;
    switch (kind) {
      case 'get':
        return this.get(sql, ...parameters);
      case 'all':
        return this.all(sql, ...parameters);
      case 'run':
      case 'send':
        return this.run(sql, ...parameters);
      case 'change':
        if (this.run(sql, ...parameters) !== 1) throw new Conflict(`a row changed under its own transaction: ${sql}`);
        return undefined;
    }
  }

  /** The verbs run one after the other here, so what each has read before is still so. */
  #count({ projectId, functionId, live, queued, outputBytes }: Count): void {
    this.run(COUNT_OF_PROJECT, live, queued, outputBytes, projectId);
    if (queued !== 0) this.run(COUNT_OF_FUNCTION, queued, projectId, functionId);
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
